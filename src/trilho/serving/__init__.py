"""The service: answers predictions over HTTP from a verified bundle, without the training stack."""
