"""WHAT MAY HAPPEN: the table and its states, the declarations, validation, worst case, drawing. Pure data."""
