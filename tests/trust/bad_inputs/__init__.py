"""What people give by mistake, by area; `tests/trust/test_bad_inputs.py` puts each through the real command line."""
