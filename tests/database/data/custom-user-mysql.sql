CREATE TABLE auth_content_type (
	id INTEGER NOT NULL AUTO_INCREMENT,
	app_label VARCHAR(100) NOT NULL,
	model VARCHAR(100) NOT NULL,
	PRIMARY KEY (id),
	CONSTRAINT auth_content_type_app_label_model_uniq UNIQUE (app_label, model)
)
CREATE TABLE auth_permission (
	id INTEGER NOT NULL AUTO_INCREMENT,
	content_type_id INTEGER NOT NULL,
	codename VARCHAR(100) NOT NULL,
	name VARCHAR(255) NOT NULL,
	PRIMARY KEY (id),
	CONSTRAINT auth_permission_content_type_id_codename_01ab375a_uniq UNIQUE (content_type_id, codename),
	CONSTRAINT auth_permission_content_type_id_2f476e4b_fk_django_co FOREIGN KEY(content_type_id) REFERENCES auth_content_type (id)
)
CREATE TABLE auth_group (
	id INTEGER NOT NULL AUTO_INCREMENT,
	name VARCHAR(150) NOT NULL,
	PRIMARY KEY (id),
	UNIQUE (name)
)
CREATE TABLE auth_group_permissions (
	id BIGINT NOT NULL AUTO_INCREMENT,
	group_id INTEGER NOT NULL,
	permission_id INTEGER NOT NULL,
	PRIMARY KEY (id),
	CONSTRAINT auth_group_permissions_group_id_permission_id_0cd325b0_uniq UNIQUE (group_id, permission_id),
	CONSTRAINT auth_group_permissions_group_id_b120cbf9_fk_auth_group_id FOREIGN KEY(group_id) REFERENCES auth_group (id),
	CONSTRAINT auth_group_permissio_permission_id_84c5c92e_fk_auth_perm FOREIGN KEY(permission_id) REFERENCES auth_permission (id)
)
CREATE TABLE shop_customer (
	id CHAR(32) NOT NULL,
	password VARCHAR(128) NOT NULL,
	last_login DATETIME(6),
	is_superuser BOOL NOT NULL,
	username VARCHAR(150) NOT NULL,
	first_name VARCHAR(150) NOT NULL,
	last_name VARCHAR(150) NOT NULL,
	email VARCHAR(254) NOT NULL,
	is_staff BOOL NOT NULL,
	is_active BOOL NOT NULL,
	date_joined DATETIME(6) NOT NULL,
	PRIMARY KEY (id),
	UNIQUE (username)
)
CREATE INDEX shop_customer_email_plain ON shop_customer (email)
CREATE TABLE shop_customer_groups (
	id BIGINT NOT NULL AUTO_INCREMENT,
	customer_id CHAR(32) NOT NULL,
	group_id INTEGER NOT NULL,
	PRIMARY KEY (id),
	CONSTRAINT shop_customer_groups_uniq UNIQUE (customer_id, group_id),
	CONSTRAINT shop_customer_groups_user_id_fk FOREIGN KEY(customer_id) REFERENCES shop_customer (id),
	CONSTRAINT shop_customer_groups_group_id_fk FOREIGN KEY(group_id) REFERENCES auth_group (id)
)
CREATE TABLE shop_customer_user_permissions (
	id BIGINT NOT NULL AUTO_INCREMENT,
	customer_id CHAR(32) NOT NULL,
	permission_id INTEGER NOT NULL,
	PRIMARY KEY (id),
	CONSTRAINT shop_customer_user_permissions_uniq UNIQUE (customer_id, permission_id),
	CONSTRAINT shop_customer_user_permissions_user_id_fk FOREIGN KEY(customer_id) REFERENCES shop_customer (id),
	CONSTRAINT shop_customer_user_permissions_permission_id_fk FOREIGN KEY(permission_id) REFERENCES auth_permission (id)
)
CREATE TABLE shop_customer_auth_session (
	key_hash VARCHAR(64) NOT NULL,
	public_id VARCHAR(32) NOT NULL,
	user_id CHAR(32),
	data LONGTEXT NOT NULL,
	created BIGINT NOT NULL,
	last_seen BIGINT NOT NULL,
	expires BIGINT NOT NULL,
	address VARCHAR(45) NOT NULL,
	user_agent VARCHAR(255) NOT NULL,
	version BIGINT NOT NULL DEFAULT '0',
	PRIMARY KEY (key_hash),
	UNIQUE (public_id)
)
CREATE INDEX shop_customer_auth_session_expires ON shop_customer_auth_session (expires)
CREATE INDEX shop_customer_auth_session_user_id ON shop_customer_auth_session (user_id)
CREATE TABLE shop_customer_auth_token (
	token_hash VARCHAR(64) NOT NULL,
	purpose VARCHAR(32) NOT NULL,
	subject VARCHAR(64) NOT NULL,
	binding VARCHAR(64) NOT NULL,
	data LONGTEXT NOT NULL,
	expires BIGINT NOT NULL,
	PRIMARY KEY (token_hash)
)
CREATE INDEX shop_customer_auth_token_expires ON shop_customer_auth_token (expires)
CREATE INDEX shop_customer_auth_token_subject ON shop_customer_auth_token (subject)
CREATE TABLE auth_throttle (
	key_hash VARCHAR(64) NOT NULL,
	failures INTEGER NOT NULL,
	until BIGINT NOT NULL,
	PRIMARY KEY (key_hash)
)
CREATE INDEX auth_throttle_until ON auth_throttle (until)
