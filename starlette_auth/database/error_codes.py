"""Error codes of databases that cannot serve at the moment.

After a code in a group whose name ends with LOST, the connection cannot be used again: it is closed, or its server
only reads.
"""

# SQLite: primary result codes, the lowest byte of `sqlite_errorcode`. ABORT, BUSY, LOCKED, INTERRUPT, FULL, SCHEMA.
# CORRUPT and NOTADB (11, 26) are missing: a damaged file is no temporary failure.
SQLITE_BUSY = frozenset({4, 5, 6, 9, 13, 17})
# NOMEM, READONLY, IOERR, CANTOPEN, PROTOCOL. A file opened again may be on a disk that works, and writable.
SQLITE_LOST = frozenset({7, 8, 10, 14, 15})

# PostgreSQL: the beginnings of SQLSTATEs. Resources (53), the operator or a timeout (57), the system (58); 40001 to
# 40P01 (transactions that were rolled back), 55000 (no connections are accepted), 55006 and 55P03 (object or lock in
# use), 72000 (old snapshot).
POSTGRESQL_BUSY = ("53", "57", "58", "40000", "40001", "40003", "40P01", "55000", "55006", "55P03", "72000")
# Connection exceptions (08), 25006 (a standby, also after a failover), 25P03 and 25P04 (a timeout of a transaction),
# 57P (shutdown).
POSTGRESQL_LOST = ("08", "25006", "25P03", "25P04", "57P")
DEADLOCK_STATES = ("40001", "40P01")  # a serialization failure, a deadlock

# MySQL and MariaDB, servers and proxies: deadlocks in a database, in XA and in a cluster.
DEADLOCK_CODES = frozenset({1020, 1213, 1614, 3101})
MYSQL_BUSY = DEADLOCK_CODES | {
    *(1, 2, 3, 5, 9, 20, 23),  # temporary files, memory
    *(1004, 1015, 1016, 1021, 1023, 1024, 1026, 1030, 1037, 1038, 1041, 1114, 1878),  # disk, files, memory
    *(1040, 1129, 1135, 1203, 1226, 1461, 1637, 9001),  # connections, threads, and limits of a user; 9001: ProxySQL
    *(1205, 1206, 1317, 1412, 1689, 1969, 3024, 3572),  # locks, and statements that took too long or were killed
    *(1180, 3100),  # COMMIT failed
}
# Also after a failover. 3032: only administrators may connect.
MYSQL_READ_ONLY = frozenset({1036, 1207, 1290, 1792, 1836, 1874, 1881, 3032})
MYSQL_LOST = MYSQL_READ_ONLY | {
    *(1043, 1053, 1077, 1078, 1079, 1080, 1152, 1184, 1927, 3168, 3169, 4031),  # shutdown, killed connections
    *range(1154, 1162),  # the network
    1047,  # a node of a Galera cluster that is not ready
    *(2000, 2001, 2002, 2003, 2004, 2005, 2006, 2008, 2012, 2013, 2014, 2027, 2055),  # the driver's own errors
}

# Parts of messages for broken connections, of drivers that have no code for them. asyncpg returns one to its pool
# ("released back") even during a transaction; "another" operation or coroutine waits for an answer that never comes.
LOST_WORDS = ("clos", "not connected", "released back", "another", "cancelled during")
# uvloop raises RuntimeError for a closed transport, aiosqlite ValueError for a closed connection.
LOST_MESSAGES = (
    "handler is closed",
    "closing pool",
    "another coroutine",
    "connection closed",
    "no active connection",
    "closed database",
)
