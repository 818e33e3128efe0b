use super::super::recovery::tests::Scratch;
use super::*;
use std::os::unix::fs::PermissionsExt;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_directory_is_made_for_its_owner_alone() {
    let scratch = Scratch::new();
    let path = scratch.0.join("deep/er");
    let directory = StoreDirectory::open(&path).unwrap();
    for path in [directory.path(), &directory.log(), &directory.damaged()] {
        assert_eq!(mode(path), 0o700, "{}", path.display());
    }
    assert_eq!(mode(&path.join("lock")), 0o600);
    super::super::Image::open(&directory.checkpoint()).unwrap();
    assert_eq!(mode(&directory.checkpoint()), 0o600);
}

#[test]
fn a_directory_in_use_is_refused_until_it_is_free() {
    let scratch = Scratch::new();
    let directory = scratch.open();
    let refused = StoreDirectory::open(&scratch.0).unwrap_err().to_string();
    assert!(refused.contains("another midge"), "{refused}");
    assert!(refused.contains(&scratch.0.display().to_string()), "{refused}");
    drop(directory);
    scratch.open();
}

#[test]
fn a_place_that_can_not_be_a_directory_is_refused_with_its_path() {
    let scratch = Scratch::new();
    let directory = scratch.open();
    let path = directory.path().join("lock/inside");
    let refused = StoreDirectory::open(&path).unwrap_err().to_string();
    assert!(refused.starts_with("can't make the state directory "), "{refused}");
}

#[test]
fn segments_come_in_the_order_in_which_they_are_applied() {
    let scratch = Scratch::new();
    let directory = scratch.open();
    let names = [(1, 0, 9), (1, 0, 10), (1, 11, 0), (2, 0, 0), (10, 0, 0)];
    for (epoch, shard, number) in names.into_iter().rev() {
        fs::write(directory.segment_path(epoch, shard, number), b"").unwrap();
    }
    let found: Vec<_> = directory.segments().unwrap();
    let found: Vec<_> = found.iter().map(|name| (name.epoch, name.shard, name.number)).collect();
    assert_eq!(found, names);
    assert_eq!(directory.highest_epoch().unwrap(), 10);
}

#[test]
fn damaged_files_of_one_name_do_not_replace_each_other() {
    let scratch = Scratch::new();
    let directory = scratch.open();
    let path = directory.checkpoint();
    let mut asides = Vec::new();
    for text in ["one", "two"] {
        fs::write(&path, text).unwrap();
        asides.push(directory.set_aside(&path).unwrap());
        remove(&path).unwrap();
    }
    let texts: Vec<String> = asides.iter().map(|path| fs::read_to_string(path).unwrap()).collect();
    assert_eq!(texts, ["one", "two"]);
}
