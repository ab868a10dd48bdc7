//! The JSON Schema of `drophammer inventory --format json` is that of the types, and every described machine keeps to it.
//!
//! After a change that is meant to change it: `UPDATE_GOLDEN=1 cargo test --test inventory_schema`.

mod machine_tree;

use std::fs;
use std::path::{Path, PathBuf};

use boon::{Compiler, Schemas};
use drophammer::inventory::{self, Inventory};
use drophammer::sys::roots::Roots;
use schemars::Schema;
use schemars::generate::SchemaSettings;
use serde_json::Value;

fn file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/inventory.schema.json")
}

/// Of what is written: what may be left out then is not required.
fn schema() -> Schema {
    SchemaSettings::draft2020_12().for_serialize().into_generator().into_root_schema_for::<Inventory>()
}

#[test]
fn the_schema_is_that_of_the_types() {
    let schema = serde_json::to_string_pretty(&schema()).expect("JSON") + "\n";
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(file(), &schema).expect("writing the schema");
    }
    let found = fs::read_to_string(file()).unwrap_or_default();
    assert_eq!(found, schema, "{} is not what the types say", file().display());
}

/// Whether a document keeps to the schema; else where and why not.
fn validate(document: &Value) -> Result<(), String> {
    // That of the types, which the file is compared with: the file may just be written.
    let schema = serde_json::to_value(schema()).expect("JSON");
    let mut compiler = Compiler::new();
    compiler.enable_format_assertions();
    compiler.add_resource("inventory.json", schema).expect("a schema");
    let mut schemas = Schemas::new();
    let index = compiler.compile("inventory.json", &mut schemas).expect("a schema that compiles");
    schemas.validate(document, index).map_err(|error| error.to_string())
}

#[test]
fn every_described_machine_keeps_to_the_schema() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let mut count = 0;
    for entry in fs::read_dir(fixtures).expect("the fixtures").flatten() {
        if !entry.path().join("tree").is_file() {
            continue;
        }
        count += 1;
        let name = entry.file_name().into_string().expect("a name");
        let tree = machine_tree::build(&name);
        let read = serde_json::to_value(inventory::read(&Roots::under(tree.path()))).expect("JSON");
        validate(&read).unwrap_or_else(|error| panic!("{name}: {error}"));
        let golden = fs::read_to_string(entry.path().join("inventory.json")).expect("the golden file");
        let golden = serde_json::from_str(&golden).expect("JSON");
        validate(&golden).unwrap_or_else(|error| panic!("{name}/inventory.json: {error}"));
    }
    assert!(count >= 4, "{count} machines");
}

#[test]
fn a_machine_of_which_nothing_is_known_keeps_to_the_schema() {
    let empty = machine_tree::temporary_folder();
    let inventory = inventory::read(&Roots::under(empty.path()));
    validate(&serde_json::to_value(inventory).expect("JSON")).expect("it keeps to the schema");
}

#[test]
fn a_document_that_is_no_inventory_is_refused() {
    let tree = machine_tree::build("vm-without-board");
    let mut document = serde_json::to_value(inventory::read(&Roots::under(tree.path()))).expect("JSON");
    document["disks"][0]["size"] = "800 GB".into();
    let error = validate(&document).expect_err("a size is a number");
    assert!(error.contains("/disks/0/size"), "{error}");
}
