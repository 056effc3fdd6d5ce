"""Makes the helpers beside this file importable for all tests."""
