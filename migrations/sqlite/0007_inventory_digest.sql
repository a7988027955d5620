-- What the inventory was when it was last read, as a digest: while it stays the same, the rows of
-- tenant_permissions need not be compared, but now and then, as others may write them, too.
ALTER TABLE verifyd_tenant_inventory ADD COLUMN digest text;
ALTER TABLE verifyd_tenant_inventory ADD COLUMN compared_at text;
