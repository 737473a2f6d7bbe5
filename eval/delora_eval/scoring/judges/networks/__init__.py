"""The architectures behind the judges, built empty: no file is looked for and nothing is downloaded here."""
