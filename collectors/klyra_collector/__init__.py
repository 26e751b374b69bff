"""The collector: receive ▶ validate ▶ seal ─ack─▶ followers; `pipeline.py` shows it on one screen."""
