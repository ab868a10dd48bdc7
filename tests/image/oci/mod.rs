//! OCI images: made by real tools and by hand, in directories, archives and registries.

mod layers;
mod layouts;
mod made;
mod registries;
mod tools;
