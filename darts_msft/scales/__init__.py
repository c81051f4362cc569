"""The scales of a series: their lengths, what MSFT adds to each, how they exchange, and how forecasts are mixed."""
