"""Tables, plots and the self-contained page of a run. Only the modules that draw import matplotlib."""
