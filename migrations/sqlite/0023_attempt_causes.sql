-- Why an attempt to send a webhook got no answer: see migrations/postgres.
ALTER TABLE verifyd_webhook_attempts ADD COLUMN cause TEXT;
