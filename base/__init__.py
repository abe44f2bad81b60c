"""How the base model was made. Skip this folder at first reading."""
