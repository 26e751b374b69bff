"""Run collector, follower and api as processes of their own that share nothing but files (DESIGN section 10)."""
