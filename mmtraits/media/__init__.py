"""Files -> raw arrays with times. NumPy, PyAV and OpenCV; no torch. `load.load` is the one entry."""
