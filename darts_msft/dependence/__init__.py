"""Which steps and components of a sample path are high and low together: estimates, and draws with that order."""
