"""Before the loop: what is checked, decided and cached."""
