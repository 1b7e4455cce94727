//! Files that fit, files that do not, and files that are none.

use super::*;
use crate::job::Arch;

fn resnet18() -> Vec<NamedShape> {
    tensors(&Model::standard(Arch::Resnet18), 3, 1000)
}

fn header(tensors: &[NamedShape]) -> WeightsHeader {
    let entry = |(name, shape): &NamedShape| (name.clone(), (Dtype::F32, shape.clone()));
    WeightsHeader { tensors: tensors.iter().map(entry).collect() }
}

/// A file of zeros.
fn file(tensors: &[(&str, &str, usize)]) -> Vec<u8> {
    let mut end = 0;
    let entries = tensors.iter().map(|(name, dtype, bytes)| {
        let (start, len) = (end, bytes / if *dtype == "F16" { 2 } else { 4 });
        end += bytes;
        format!(r#""{name}":{{"dtype":"{dtype}","shape":[{len}],"data_offsets":[{start},{end}]}}"#)
    });
    let header = format!("{{{}}}", entries.collect::<Vec<_>>().join(","));
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.bytes());
    file.resize(file.len() + end, 0);
    file
}

/// Nine tensors' places, the last of which ends at 2^64 - 1; no single one is too long for the format.
fn endless() -> Vec<u8> {
    let longest = u64::MAX / 8;
    let entries = (0..9).map(|number| {
        let (start, len) = (number * longest, longest.min(u64::MAX - number * longest));
        let end = start + len;
        format!(r#""{number}":{{"dtype":"U8","shape":[{len}],"data_offsets":[{start},{end}]}}"#)
    });
    let header = format!("{{{}}}", entries.collect::<Vec<_>>().join(","));
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat()
}

fn read(bytes: &[u8]) -> Result<WeightsHeader, WeightsError> {
    WeightsHeader::read(&mut &bytes[..], bytes.len() as u64)
}

#[test]
fn the_tensors_are_those_of_torchvisions_models() {
    // sum(v.numel() for k, v in torchvision.models.resnetX().state_dict().items() if not k.endswith("tracked")), and the
    // number of such tensors.
    for (arch, count, elements) in [
        (Arch::Resnet18, 102, 11_699_112),
        (Arch::Resnet34, 182, 21_814_696),
        (Arch::Resnet50, 267, 25_610_152),
        (Arch::Resnet101, 522, 44_654_504),
        (Arch::Resnet152, 777, 60_344_232),
    ] {
        let tensors = tensors(&Model::standard(arch), 3, 1000);
        let found: usize = tensors.iter().map(|(_, shape)| shape.iter().product::<usize>()).sum();
        assert_eq!((tensors.len(), found), (count, elements), "{arch:?}");
    }
}

#[test]
fn a_file_fits_whole_or_but_for_its_number_of_classes() {
    let wanted = resnet18();
    assert_eq!(header(&wanted).fit(&wanted).unwrap(), Fit::Whole);
    let other = tensors(&Model::standard(Arch::Resnet18), 3, 37);
    assert_eq!(header(&other).fit(&wanted).unwrap(), Fit::OtherClasses { classes: 37 });
}

#[test]
fn what_does_not_fit_is_named_with_both_shapes_and_the_rest_is_counted() {
    let wanted = resnet18();
    let grey = tensors(&Model::standard(Arch::Resnet18), 1, 1000);
    let message = header(&grey).fit(&wanted).unwrap_err().to_string();
    let words = "conv1.weight is [64, 1, 7, 7], the model needs [64, 3, 7, 7]; give `[model]`";
    assert!(message.contains(words), "{message}");

    let deeper = tensors(&Model::standard(Arch::Resnet50), 3, 1000);
    let message = header(&deeper).fit(&wanted).unwrap_err().to_string();
    let words = "layer1.0.conv1.weight is [64, 64, 1, 1], the model needs [64, 64, 3, 3]";
    assert!(message.contains(words) && message.contains(", and "), "{message}");
    let message = header(&wanted).fit(&deeper).unwrap_err().to_string();
    assert!(message.contains("layer1.0.conv3.weight is missing"), "{message}");

    // Another width in front of the last layer is no other number of classes.
    let mut narrow = wanted.clone();
    let last = narrow.len() - 2;
    narrow[last].1 = vec![37, 256];
    let message = header(&narrow).fit(&wanted).unwrap_err().to_string();
    assert!(message.contains("fc.weight is [37, 256], the model needs [1000, 512]"), "{message}");
}

#[test]
fn names_are_taken_as_pytorch_writes_them() {
    let found = read(&file(&[
        ("module.a.weight", "F16", 8),
        ("module.bn1.num_batches_tracked", "F32", 4),
        ("b", "I32", 4),
    ]))
    .unwrap();
    let wanted = |name: &str, len| (name.to_owned(), vec![len]);
    let message = found.fit(&[wanted("a.weight", 4), wanted("b", 1)]).unwrap_err().to_string();
    assert!(message.contains("model: b is I32, not F32, F16, BF16 or F64; give"), "{message}");
    let message = found.fit(&[wanted("a.weight", 4)]).unwrap_err().to_string();
    assert!(message.contains("b is not in the model"), "{message}");
    let twice = read(&file(&[("module.a", "F32", 4), ("a", "F32", 4)])).unwrap_err().to_string();
    assert!(twice.contains("it holds a with and without `module.`"), "{twice}");
}

#[test]
fn what_is_no_whole_file_is_refused_before_memory_is_asked_for() {
    let whole = file(&[("a", "F32", 8)]);
    assert!(read(&whole).is_ok());
    let mut longer = whole.clone();
    longer.push(0);
    let huge = [&u64::MAX.to_le_bytes()[..], b"{}"].concat();
    let claims = [&(15u64 << 20).to_le_bytes()[..], b"{}"].concat();
    let endless = endless();
    let gap = [&[0; 0], &2u64.to_le_bytes()[..], b"[]"].concat();
    let cases: [(&[u8], &str); 9] = [
        (b"", "it ends within its header"),
        (b"PK\x03\x04 a pickled file", "not the length of a header"),
        (&huge, "not the length of a header"),
        (&claims, "not the length of a header"),
        (&gap, "it is no whole safetensors file"),
        (&whole[..whole.len() - 1], "its header describes"),
        (&whole[..20], "not the length of a header"),
        (&longer, "its header describes"),
        (&endless, "its header describes"),
    ];
    for (bytes, words) in cases {
        let message = read(bytes).unwrap_err().to_string();
        assert!(message.contains(words), "{message}");
        assert!(message.contains("save_file"), "{message}");
    }
    let refused = WeightsHeader::read(&mut &whole[..], CHECKPOINT_BYTES_MAX + 1);
    assert!(matches!(refused, Err(WeightsError::TooLarge { .. })));
}
