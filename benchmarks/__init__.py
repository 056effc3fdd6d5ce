"""Every performance claim, measured beside its peer in the same run."""
