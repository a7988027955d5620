-- An id may be given a second time: TRUNCATE … RESTART IDENTITY, a backup that is restored. Attempts of an
-- earlier run of the same id are kept, and never count for the later one: the first claim of that one sets
-- them aside.
ALTER TABLE verifyd.run_attempts ADD COLUMN earlier boolean NOT NULL DEFAULT false;
