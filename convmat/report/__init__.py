"""What commands found, for people and for programs: facts, and the tables that show them."""
