"""Where events come from in applications that exist: web frameworks, logging, OpenTelemetry."""
