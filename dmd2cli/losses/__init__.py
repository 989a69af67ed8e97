"""Loss terms: hyper-parameters plus a call into core.objective. A recipe names them; a new objective is a new term."""
