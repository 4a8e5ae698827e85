mod model;
mod quants;
mod refused;
mod round_trip;
mod vocabulary;

use std::path::Path;

use super::*;

/// A file's bytes, put together piece by piece, also wrongly.
#[derive(Default, Clone)]
struct Build(Vec<u8>);

impl Build {
    /// Magic, version 3, counts.
    fn new(tensors: u64, pairs: u64) -> Self {
        Self(b"GGUF".to_vec()).u32(3).u64(tensors).u64(pairs)
    }

    fn u32(mut self, n: u32) -> Self {
        self.0.extend(n.to_le_bytes());
        self
    }

    fn u64(mut self, n: u64) -> Self {
        self.0.extend(n.to_le_bytes());
        self
    }

    fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    fn str(self, text: &str) -> Self {
        self.u64(text.len() as u64).raw(text.as_bytes())
    }

    /// A tensor's entry; sizes in the file's order.
    fn tensor(self, name: &str, dims: &[u64], ty: u32, offset: u64) -> Self {
        let build = self.str(name).u32(dims.len() as u32);
        dims.iter().fold(build, |b, &d| b.u64(d)).u32(ty).u64(offset)
    }

    /// Padding and `n` bytes of data.
    fn data(mut self, n: usize) -> Self {
        let len = self.0.len().next_multiple_of(32) + n;
        self.0.resize(len, 7);
        self
    }

    fn parse(&self) -> Result<Gguf> {
        parse(Path::new("model.gguf"), &self.0)
    }
}

/// A file with these tensors, all zeros, and this metadata.
fn file(metadata: &[(String, Value)], tensors: &[(&str, TensorType, &[usize])]) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    let list: Vec<_> = tensors.iter().map(|(n, t, s)| ((*n).to_string(), *t, s.to_vec())).collect();
    write(&path, metadata, &list, &mut |i, w| {
        let (_, ty, shape) = &list[i];
        w.write_all(&vec![0; ty.tensor_bytes(shape).unwrap()])
    })
    .unwrap();
    std::fs::read(&path).unwrap()
}
