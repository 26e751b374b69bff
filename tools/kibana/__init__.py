"""Makes what Kibana imports out of the sources in `dashboards/kibana/sources`; needs the standard library alone."""
