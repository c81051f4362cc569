"""The linear member: a ridge regression from past to future steps, fitted in closed form, with its distribution."""
