"""A stand-in for Colab's own package, put on PYTHONPATH by the tests, so that the Colab branch of the code runs."""
