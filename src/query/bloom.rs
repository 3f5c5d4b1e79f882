//! Bloom filters, asked for single values without being read.
//!
//! A filter is a row of blocks of 32 bytes, and a value has its bits in one of them: that block alone is read, of each row
//! group. DataFusion would read the filters whole, a byte a row or more, which for the one line of a request is most of all
//! that is read. Only of files that headrig wrote, whose filters have a power of two of blocks; others are left to DataFusion.

use super::columns::Footers;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::{Result, ScalarValue};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::utils::Guarantee;
use datafusion::physical_optimizer::pruning::PruningPredicateBuilder;
use object_store::ObjectMeta;
use parquet::basic::Type;
use parquet::file::metadata::ParquetMetaData;
use std::ops::Range;
use std::sync::Arc;
use twox_hash::XxHash64;

/// Bytes of one block.
const BLOCK: u64 = 32;
/// Most bytes that stand in front of the blocks.
const HEADER: u64 = 64;
/// Values that are looked for one by one; of a longer list hardly a row group would be skipped.
const VALUES: usize = 20;

/// A column that has to have one of these values.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    column: String,
    values: Vec<ScalarValue>,
}

/// The values that columns must have for a filter to hold.
pub(super) fn wanted(filter: &Arc<dyn PhysicalExpr>, schema: &SchemaRef) -> Vec<Wanted> {
    let predicate = PruningPredicateBuilder::new().with_file_schema(Arc::clone(schema));
    let Ok(predicate) = predicate.try_build(Arc::clone(filter)) else { return Vec::new() };
    let asked = predicate.literal_guarantees().iter();
    let asked = asked.filter(|asked| asked.guarantee == Guarantee::In && asked.literals.len() <= VALUES);
    asked
        .map(|asked| Wanted { column: asked.column.name.clone(), values: asked.literals.iter().cloned().collect() })
        .collect()
}

/// One block to look into: of which wanted column and row group, and the bits of which value.
struct Probe {
    wanted: usize,
    group: usize,
    range: Range<u64>,
    mask: [u32; 8],
}

/// Which row groups of a file may have what is wanted; `None` where its filters cannot tell.
pub(super) async fn groups(footers: &Footers, file: &ObjectMeta, wanted: &[Wanted]) -> Result<Option<Vec<bool>>> {
    let footer = footers.read(file).await?;
    let is_ours = footer.file_metadata().created_by().is_some_and(|by| by.starts_with("headrig"));
    let probes = if is_ours { probes(&footer, wanted) } else { Vec::new() };
    if probes.is_empty() {
        return Ok(None);
    }
    let ranges: Vec<Range<u64>> = probes.iter().map(|probe| probe.range.clone()).collect();
    let blocks = footers.store.get_ranges(&file.location, &ranges).await?;
    let mut kept = vec![true; footer.num_row_groups()];
    for (number, kept) in kept.iter_mut().enumerate() {
        for of in 0..wanted.len() {
            let mut asked =
                probes.iter().zip(&blocks).filter(|(probe, _)| (probe.group, probe.wanted) == (number, of)).peekable();
            if asked.peek().is_some() && !asked.any(|(probe, block)| has(block, &probe.mask)) {
                *kept = false;
            }
        }
    }
    if kept.contains(&true) {
        // What is wanted is in few rows.
        footers.read_pages(file).await?;
    }
    Ok(Some(kept))
}

/// The blocks of all values in all row groups; of a column without a filter in some row group none there.
fn probes(footer: &ParquetMetaData, wanted: &[Wanted]) -> Vec<Probe> {
    let mut probes = Vec::new();
    for (group, metadata) in footer.row_groups().iter().enumerate() {
        for (number, Wanted { column, values }) in wanted.iter().enumerate() {
            let chunk =
                metadata.columns().iter().find(|chunk| chunk.column_path().parts() == std::slice::from_ref(column));
            let filter = chunk.and_then(|chunk| {
                let length = u64::try_from(chunk.bloom_filter_length()?).ok().filter(|length| *length > BLOCK)?;
                let blocks = (1_u64 << length.ilog2()) / BLOCK;
                let start = u64::try_from(chunk.bloom_filter_offset()?).ok()? + length - blocks * BLOCK;
                (length - blocks * BLOCK <= HEADER).then_some((chunk.column_type(), start, blocks))
            });
            let Some((kind, start, blocks)) = filter else { continue };
            let hashes: Option<Vec<u64>> = values.iter().map(|value| hash(kind, value)).collect();
            probes.extend(hashes.unwrap_or_default().into_iter().map(|hash| {
                let at = start + (((hash >> 32) * blocks) >> 32) * BLOCK;
                Probe { wanted: number, group, range: at..at + BLOCK, mask: mask(hash as u32) }
            }));
        }
    }
    probes
}

/// The hash of a value as a file has it; hex columns are bytes there.
fn hash(kind: Type, value: &ScalarValue) -> Option<u64> {
    let of = |bytes: &[u8]| Some(XxHash64::oneshot(0, bytes));
    match (kind, value) {
        (Type::INT64, ScalarValue::Int64(Some(number))) => of(&number.to_le_bytes()),
        (Type::BYTE_ARRAY, value) => of(value.try_as_str()??.as_bytes()),
        (Type::FIXED_LEN_BYTE_ARRAY, value) => {
            let text = value.try_as_str()??;
            let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
            let bytes: Option<Vec<u8>> = text.as_bytes().chunks(2).map(byte).collect();
            of(&bytes.filter(|bytes| bytes.len() * 2 == text.len())?)
        }
        _ => None,
    }
}

/// A bit in each word of a block, as the Parquet format says.
fn mask(hash: u32) -> [u32; 8] {
    const SALT: [u32; 8] =
        [0x47b6_137b, 0x4497_4d91, 0x8824_ad5b, 0xa2b7_289d, 0x7054_95c7, 0x2df1_424b, 0x9efc_4947, 0x5c6b_fb31];
    SALT.map(|salt| 1 << (hash.wrapping_mul(salt) >> 27))
}

fn has(block: &[u8], mask: &[u32; 8]) -> bool {
    let words = block.chunks_exact(4).map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]));
    words.zip(mask).all(|(word, bit)| word & bit != 0)
}
