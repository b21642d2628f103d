"""The counters of `Throttle`: their statements, rates, failures and slots."""
