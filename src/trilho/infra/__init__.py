"""The stacks of `infra/`: planned, shown, applied, handed over to GitHub, taken down."""
