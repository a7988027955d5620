-- Nothing: whoever adds entries of the audit trail chooses no id. See migrations/sqlite.
SELECT 1;
