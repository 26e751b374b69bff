"""Having checkpoints cosigned by independent witnesses, and being one for others."""
