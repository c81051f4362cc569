"""Numbers of distributions: quantiles from distribution functions, Student's t."""
