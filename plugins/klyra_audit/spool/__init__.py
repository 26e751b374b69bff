"""Events that are durable on the emitter's own disk until a collector has sealed them."""
