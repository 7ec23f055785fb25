"""Papers: claims that are checked, the runs and sweeps behind them, and the report of both."""
