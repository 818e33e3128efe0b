//! Work and bytes of one turn have a budget.
