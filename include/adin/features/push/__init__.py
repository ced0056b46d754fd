"""Users' own rows into the online store: judged row by row, written, answered for, written down."""
