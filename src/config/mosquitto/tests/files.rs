//! Files on the disk: included files, and files that can't be read.

use std::path::PathBuf;

use super::*;

/// The directory of one test. It is removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("midge-conf-{name}-{}", std::process::id()));
        std::fs::create_dir_all(path.join("conf.d")).expect("a folder");
        Folder(path)
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, text).expect("a file");
        path
    }

    fn include_line(&self) -> String {
        format!("include_dir {}\n", self.0.join("conf.d").display())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The configuration that Debian ships.
fn stock(folder: &Folder) -> String {
    let mut text = "# Local configuration belongs into conf.d\n#\n\n\
                    pid_file /run/mosquitto/mosquitto.pid\n\n\
                    persistence true\npersistence_location /var/lib/mosquitto/\n\n\
                    log_dest file /var/log/mosquitto/mosquitto.log\n\n"
        .to_owned();
    text.push_str(&folder.include_line());
    text
}

#[test]
fn the_stock_file_of_debian_serves_this_machine_and_keeps_its_state() {
    let folder = Folder::new("stock");
    let path = folder.file("mosquitto.conf", &stock(&folder));
    let mut conf = MosquittoConf::load(&path, None).expect("a good file");
    conf.has_ipv6 = true;
    assert!(conf.local_only);
    assert_eq!(addresses(&conf), ["127.0.0.1:1883", "[::1]:1883"]);
    let config = conf.config().expect("all of it is known");
    assert_eq!(config.auth.allow_anonymous, Some(true));
    assert_eq!(config.persistence.directory, "/var/lib/mosquitto/mosquitto.db.midge");
    let remarks: Vec<String> = conf.remarks.iter().map(ToString::to_string).collect();
    assert_eq!(remarks.len(), 1);
    assert!(remarks[0].contains("mosquitto.conf:4: pid_file: "), "{remarks:?}");
    assert!(conf.midge_toml().contains("/var/log/mosquitto/mosquitto.log"));
}

#[test]
fn listener_lines_beside_the_stock_file_open_it_to_others_and_close_it_to_the_anonymous() {
    let folder = Folder::new("listeners");
    folder.file("conf.d/10-net.conf", "listener 1883\nmax_connections 500\nlistener 8883 192.0.2.1\n");
    folder.file("conf.d/20-who.conf", "password_file /etc/mosquitto/passwd\n");
    folder.file("conf.d/README", "no configuration\n");
    let path = folder.file("mosquitto.conf", &stock(&folder));
    let mut conf = MosquittoConf::load(&path, None).expect("a good file");
    conf.has_ipv6 = true;
    assert_eq!(addresses(&conf), ["0.0.0.0:1883", "[::]:1883", "192.0.2.1:8883"]);
    let mapping = conf.mapping();
    assert_eq!(mapped(&mapping, TomlTable::Listener(1), "connections"), integer(500));
    assert_eq!(mapped(&mapping, TomlTable::Listener(2), "connections"), None);
    assert_eq!(mapped(&mapping, TomlTable::Section("auth"), "allow_anonymous"), truth(false));
    assert_eq!(mapped(&mapping, TomlTable::Section("auth"), "password_file"), text("/etc/mosquitto/passwd"));
    let opened = &conf.listeners[0].place;
    assert!(opened.file.ends_with("10-net.conf"));
    assert_eq!(opened.line, 1);
}

#[test]
fn included_files_come_in_mosquittos_order_and_only_those_of_its_name() {
    let folder = Folder::new("order");
    for (name, port) in
        [("b.conf", 1), ("A.conf", 2), ("a.conf", 3), ("c.conf.bak", 4), (".conf", 5), ("10.conf", 6)]
    {
        folder.file(&format!("conf.d/{name}"), &format!("listener {port} 127.0.0.1\n"));
    }
    let path = folder.file("m.conf", &folder.include_line());
    let conf = MosquittoConf::load(&path, None).expect("good files");
    let ports = ["127.0.0.1:6", "127.0.0.1:2", "127.0.0.1:3", "127.0.0.1:1"];
    assert_eq!(addresses(&conf), ports);
}

#[test]
fn a_listener_of_one_file_is_not_that_of_another() {
    let folder = Folder::new("scope");
    folder.file("conf.d/1.conf", "mount_point a/\ninclude_dir elsewhere\n");
    folder.file("conf.d/2.conf", "max_connections 7\n");
    let path =
        folder.file("m.conf", &format!("listener 1884 127.0.0.1\n{}max_qos 1\n", folder.include_line()));
    let errors = MosquittoConf::load(&path, None).expect_err("mount_point needs its listener");
    assert_eq!(errors.len(), 2);
    assert!(errors[0].to_string().contains("1.conf:1: mount_point: a listener line"), "{errors:?}");
    assert!(errors[1].to_string().contains("1.conf:2: include_dir: allowed in the main file only"));

    folder.file("conf.d/1.conf", "");
    let conf = MosquittoConf::load(&path, None).expect("good files");
    assert_eq!(conf.listeners.len(), 2, "max_connections opens the default listener beside 1884");
    assert_eq!(conf.listeners[0].settings.max_qos.as_ref().map(|qos| qos.value), Some(1));
    assert_eq!(conf.listeners[1].opened_by, "max_connections");
    assert_eq!(conf.listeners[1].place.value, ListenAddress::Port(1883, None));
    assert!(conf.midge_toml().contains("opens mosquitto's default listener"));
}

#[test]
fn what_cannot_be_opened_is_named() {
    let folder = Folder::new("open");
    let missing = MosquittoConf::load(&folder.0.join("no.conf"), None).expect_err("no file");
    assert!(missing[0].to_string().contains("no.conf: cannot be read"), "{missing:?}");
    let directory = MosquittoConf::load(&folder.0.join("conf.d"), None).expect_err("no file");
    assert!(directory[0].to_string().contains("is a directory"), "{directory:?}");
    assert!(errors("include_dir /nowhere/at/all\n")[0].contains("m.conf:1: include_dir: the directory"));
}
