//! An imitation of Microsoft Entra and Graph on loopback.
