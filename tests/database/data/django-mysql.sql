CREATE TABLE django_content_type (
	id INTEGER NOT NULL AUTO_INCREMENT,
	app_label VARCHAR(100) NOT NULL,
	model VARCHAR(100) NOT NULL,
	PRIMARY KEY (id),
	CONSTRAINT django_content_type_app_label_model_76bd3d3b_uniq UNIQUE (app_label, model)
)
CREATE TABLE auth_permission (
	id INTEGER NOT NULL AUTO_INCREMENT,
	content_type_id INTEGER NOT NULL,
	codename VARCHAR(100) NOT NULL,
	name VARCHAR(255) NOT NULL,
	PRIMARY KEY (id),
	CONSTRAINT auth_permission_content_type_id_codename_01ab375a_uniq UNIQUE (content_type_id, codename),
	CONSTRAINT auth_permission_content_type_id_2f476e4b_fk_django_co FOREIGN KEY(content_type_id) REFERENCES django_content_type (id)
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
CREATE TABLE auth_user (
	id INTEGER NOT NULL AUTO_INCREMENT,
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
CREATE TABLE auth_user_groups (
	id BIGINT NOT NULL AUTO_INCREMENT,
	user_id INTEGER NOT NULL,
	group_id INTEGER NOT NULL,
	PRIMARY KEY (id),
	CONSTRAINT auth_user_groups_user_id_group_id_94350c0c_uniq UNIQUE (user_id, group_id),
	CONSTRAINT auth_user_groups_user_id_6a12ed8b_fk_auth_user_id FOREIGN KEY(user_id) REFERENCES auth_user (id),
	CONSTRAINT auth_user_groups_group_id_97559544_fk_auth_group_id FOREIGN KEY(group_id) REFERENCES auth_group (id)
)
CREATE TABLE auth_user_user_permissions (
	id BIGINT NOT NULL AUTO_INCREMENT,
	user_id INTEGER NOT NULL,
	permission_id INTEGER NOT NULL,
	PRIMARY KEY (id),
	CONSTRAINT auth_user_user_permissions_user_id_permission_id_14a6b632_uniq UNIQUE (user_id, permission_id),
	CONSTRAINT auth_user_user_permissions_user_id_a95ead1b_fk_auth_user_id FOREIGN KEY(user_id) REFERENCES auth_user (id),
	CONSTRAINT auth_user_user_permi_permission_id_1fbb5f2c_fk_auth_perm FOREIGN KEY(permission_id) REFERENCES auth_permission (id)
)
CREATE TABLE django_session (
	session_key VARCHAR(40) NOT NULL,
	session_data LONGTEXT NOT NULL,
	expire_date DATETIME(6) NOT NULL,
	PRIMARY KEY (session_key)
)
CREATE INDEX django_session_expire_date_a5c62663 ON django_session (expire_date)
CREATE TABLE auth_token (
	token_hash VARCHAR(64) NOT NULL,
	purpose VARCHAR(32) NOT NULL,
	subject VARCHAR(64) NOT NULL,
	binding VARCHAR(64) NOT NULL,
	data LONGTEXT NOT NULL,
	expires BIGINT NOT NULL,
	PRIMARY KEY (token_hash)
)
CREATE INDEX auth_token_expires ON auth_token (expires)
CREATE INDEX auth_token_subject ON auth_token (subject)
CREATE TABLE auth_throttle (
	key_hash VARCHAR(64) NOT NULL,
	failures INTEGER NOT NULL,
	until BIGINT NOT NULL,
	PRIMARY KEY (key_hash)
)
CREATE INDEX auth_throttle_until ON auth_throttle (until)
