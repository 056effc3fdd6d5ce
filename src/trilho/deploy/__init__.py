"""Deploy to ECS: roll over, watch, smoke-test, and go back when any of it fails."""
