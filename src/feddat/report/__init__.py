"""Tables, plots and the self-contained page of a run. Only modules that draw load matplotlib."""
