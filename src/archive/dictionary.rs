//! Text columns of few values: a dictionary, and codes into it.
//!
//! Written here and not by the parquet crate, which hashes and compares each value in three places and makes two zstd
//! contexts a column: half of the archive's time went into columns like `level`. What is known of the dictionary comes
//! for nothing: least and greatest value, and the bloom filter, are made of its entries and not of the rows.

use super::hybrid::{put_codes, put_equal_levels, put_levels};
use crate::limits;
use ahash::RandomState;
use arrow::array::{Array, BooleanBufferBuilder, StringArray};
use bytes::Bytes;
use hashbrown::{HashSet, HashTable};
use parquet::basic::{Compression, Encoding, PageType, ZstdLevel};
use parquet::bloom_filter::Sbbf;
use parquet::column::page::{CompressedPage, Page, PageWriter};
use parquet::column::writer::ColumnCloseResult;
use parquet::data_type::ByteArray;
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::{ColumnChunkMetaData, OffsetIndexBuilder, PageEncodingStats};
use parquet::file::statistics::{Statistics, ValueStatistics};
use parquet::file::writer::{SerializedPageWriter, TrackedWrite};
use parquet::schema::types::ColumnDescPtr;
use std::cell::RefCell;
use std::ops::Range;

/// Rows of a page, as the parquet crate has it: what a reader must unpack to get at one row.
const PAGE_ROWS: usize = 20_000;
/// Bytes of a page of values that are in no dictionary.
const PAGE_BYTES: usize = 1 << 20;
/// Bytes of a dictionary; values that come behind it stand in the pages. A reader unpacks it first, for any row.
const DICTIONARY_BYTES: usize = 1 << 20;
/// Texts that are found without a look-up, by their keys; a power of two. They take 24 KB, what fits the L1 cache.
const RECENT: usize = 512;
/// Bytes of a least or greatest value; a longer one is left out, as in a footer it would only be in the way.
const STATISTIC_BYTES: usize = 64;
/// Share of values that a bloom filter takes for known though they are not, as the parquet crate has it.
const BLOOM_FPP: f64 = 0.05;

/// Texts that are looked at before a row group begins, to see whether it pays to have a dictionary.
pub(super) const SAMPLE: usize = 4_096;
/// Fewer say nothing.
const SAMPLE_LEAST: usize = 64;

/// One column of one row group being encoded.
pub(super) struct DictionaryColumn {
    descr: ColumnDescPtr,
    level: i32,
    bloom: bool,
    dictionary: Dictionary,
    page: PageRows,
    written: Written,
    /// Filled from the first value that doesn't fit the dictionary on; until then the dictionary is what there is.
    filter: Option<Sbbf>,
}

/// Different values, in the order in which they came.
struct Dictionary {
    hashes: RandomState,
    codes: HashTable<u32>,
    /// As a dictionary page has them: length (32 bits, little endian) and text, one after the other.
    plain: Vec<u8>,
    /// Where in `plain` each text is.
    texts: Vec<Range<usize>>,
    /// The code that was looked up last, and others by a hash of their keys: most texts are found here.
    last: Option<(Key, u32)>,
    recent: Vec<Option<(Key, u32)>>,
    /// No more values fit.
    full: bool,
}

/// A text of at most 32 bytes: its first 16 bytes and its last 16, the second 0 where the first are all. Comparing two
/// keys is a handful of instructions, where comparing texts is a call.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Key {
    first: u128,
    last: u128,
    length: u32,
}

/// Rows of the page that is being filled.
struct PageRows {
    present: BooleanBufferBuilder,
    nulls: usize,
    codes: Vec<u32>,
    /// Values of a page without dictionary, as in [`Dictionary::plain`].
    plain: Vec<u8>,
}

/// Pages that are done, without the dictionary's.
struct Written {
    sink: TrackedWrite<Vec<u8>>,
    offsets: OffsetIndexBuilder,
    uncompressed: usize,
    rows: usize,
    nulls: usize,
    coded_pages: i32,
    plain_pages: i32,
}

/// Whether the first texts of a column have so few different ones that a dictionary pays: each stands four times and
/// more. `None` when there are hardly any.
pub(super) fn has_few_values<'t>(texts: impl Iterator<Item = &'t StringArray>) -> Option<bool> {
    let present = texts.filter(|texts| texts.null_count() < texts.len()).flat_map(|texts| texts.iter().flatten());
    let mut different = HashSet::new();
    let count = present.take(SAMPLE).map(|text| different.insert(text)).count();
    (count >= SAMPLE_LEAST).then(|| different.len() * 4 <= count)
}

impl DictionaryColumn {
    /// A column of texts at the top of its schema, compressed with zstd's `level`.
    pub(super) fn new(descr: ColumnDescPtr, level: i32, bloom: bool) -> Self {
        let hashes = RandomState::new();
        let (codes, texts) = (HashTable::new(), Vec::new());
        Self {
            descr,
            level,
            bloom,
            dictionary: Dictionary {
                hashes,
                codes,
                plain: Vec::new(),
                texts,
                last: None,
                recent: Vec::new(),
                full: false,
            },
            page: PageRows { present: BooleanBufferBuilder::new(0), nulls: 0, codes: Vec::new(), plain: Vec::new() },
            written: Written {
                sink: TrackedWrite::new(Vec::new()),
                offsets: OffsetIndexBuilder::new(),
                uncompressed: 0,
                rows: 0,
                nulls: 0,
                coded_pages: 0,
                plain_pages: 0,
            },
            filter: None,
        }
    }

    /// Encodes all texts of `texts`.
    ///
    /// # Errors
    /// When a page is beyond what Parquet can say of one (2 GiB).
    pub(super) fn write(&mut self, texts: &StringArray) -> Result<()> {
        let mut at = 0;
        while at < texts.len() {
            let rows = (texts.len() - at).min(PAGE_ROWS - self.page.present.len());
            at += self.fill(&texts.slice(at, rows))?;
            if self.page.present.len() == PAGE_ROWS || self.page.plain.len() >= PAGE_BYTES {
                self.end_page()?;
            }
        }
        Ok(())
    }

    /// Bytes of the column chunk so far; estimated for the page that is being filled.
    pub(super) fn bytes(&self) -> usize {
        let codes = self.page.codes.len() * self.dictionary.width() as usize / 8;
        self.written.sink.bytes_written() + self.dictionary.plain.len() + self.page.plain.len() + codes
    }

    /// Puts rows into the page, until it has to end; returns how many.
    fn fill(&mut self, texts: &StringArray) -> Result<usize> {
        if texts.null_count() == texts.len() {
            self.page.present.append_n(texts.len(), false);
            self.page.nulls += texts.len();
            return Ok(texts.len());
        }
        let read = if self.dictionary.full { self.fill_plain(texts) } else { self.fill_codes(texts) };
        self.take_rows(&texts.slice(0, read));
        if read < texts.len() {
            // A page has either codes or values, and ends where it is full.
            self.end_page()?;
            if !self.dictionary.full {
                self.leave_dictionary()?;
            }
        }
        Ok(read)
    }

    /// Looks texts up in the dictionary, as long as it has room; returns how many.
    fn fill_codes(&mut self, texts: &StringArray) -> usize {
        let (data, offsets) = (texts.value_data(), texts.value_offsets());
        for row in 0..texts.len() {
            if texts.is_null(row) {
                continue;
            }
            match self.dictionary.code(data, offsets[row] as usize..offsets[row + 1] as usize) {
                Some(code) => self.page.codes.push(code),
                None => return row,
            }
        }
        texts.len()
    }

    /// Puts texts into the page as they are, until it is full; returns how many.
    fn fill_plain(&mut self, texts: &StringArray) -> usize {
        for (row, text) in texts.iter().enumerate() {
            if self.page.plain.len() >= PAGE_BYTES {
                return row;
            }
            let Some(text) = text else { continue };
            if let Some(filter) = &mut self.filter {
                filter.insert(text.as_bytes());
            }
            put_plain(&mut self.page.plain, text.as_bytes());
        }
        texts.len()
    }

    /// Notes which of the rows just read are null.
    fn take_rows(&mut self, texts: &StringArray) {
        match texts.nulls() {
            Some(nulls) => self.page.present.append_buffer(nulls.inner()),
            None => self.page.present.append_n(texts.len(), true),
        }
        self.page.nulls += texts.null_count();
    }

    /// From now on values stand in the pages.
    fn leave_dictionary(&mut self) -> Result<()> {
        self.dictionary.full = true;
        if self.bloom {
            let mut filter = Sbbf::new_with_ndv_fpp(limits::ROW_GROUP_ROWS as u64, BLOOM_FPP)?;
            self.dictionary.iter().for_each(|text| filter.insert(text));
            self.filter = Some(filter);
        }
        Ok(())
    }

    fn end_page(&mut self) -> Result<()> {
        let rows = self.page.present.len();
        if rows == 0 {
            return Ok(());
        }
        let present = self.page.present.finish();
        let mut body = Vec::with_capacity(4 + rows / 8 + self.page.codes.len() + self.page.plain.len());
        if self.descr.max_def_level() > 0 {
            body.extend_from_slice(&[0; 4]);
            match self.page.nulls {
                0 => put_equal_levels(&mut body, 1, rows),
                nulls if nulls == rows => put_equal_levels(&mut body, 0, rows),
                _ => put_levels(&mut body, present.values(), rows),
            }
            let levels = body.len() as u32 - 4;
            body[..4].copy_from_slice(&levels.to_le_bytes());
        }
        let encoding = if self.page.codes.is_empty() {
            body.extend_from_slice(&self.page.plain);
            self.written.plain_pages += 1;
            Encoding::PLAIN
        } else {
            let width = self.dictionary.width();
            body.push(width as u8);
            put_codes(&mut body, &self.page.codes, width);
            self.written.coded_pages += 1;
            Encoding::RLE_DICTIONARY
        };
        let page = Page::DataPage {
            buf: compress(&body, self.level)?,
            num_values: rows as u32,
            encoding,
            def_level_encoding: Encoding::RLE,
            rep_level_encoding: Encoding::RLE,
            statistics: None,
        };
        self.written.put(CompressedPage::new(page, body.len()), rows, self.page.nulls)?;
        self.page.nulls = 0;
        self.page.codes.clear();
        self.page.plain.clear();
        Ok(())
    }

    /// Ends the column chunk: its bytes, dictionary first, and what the footer says of it.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub(super) fn close(mut self) -> Result<(Bytes, ColumnCloseResult)> {
        self.end_page()?;
        let mut sink = TrackedWrite::new(Vec::new());
        let (mut uncompressed, mut encodings) = (self.written.uncompressed, Vec::new());
        let mut stats = Vec::new();
        let mut used = |encoding, page_type, count| {
            encodings.push(encoding);
            stats.push(PageEncodingStats { page_type, encoding, count });
        };
        if self.written.coded_pages > 0 {
            uncompressed += write_page(&mut sink, self.dictionary.page(self.level)?)?.uncompressed_size;
            used(Encoding::PLAIN, PageType::DICTIONARY_PAGE, 1);
            used(Encoding::RLE_DICTIONARY, PageType::DATA_PAGE, self.written.coded_pages);
        }
        if self.written.plain_pages > 0 {
            used(Encoding::PLAIN, PageType::DATA_PAGE, self.written.plain_pages);
        }
        encodings.push(Encoding::RLE);
        let mut bytes = sink.into_inner()?;
        let dictionary = bytes.len();
        bytes.extend_from_slice(&self.written.sink.into_inner()?);
        let mut metadata = ColumnChunkMetaData::builder(self.descr)
            .set_compression(Compression::ZSTD(ZstdLevel::try_new(self.level)?))
            .set_encodings(encodings)
            .set_page_encoding_stats(stats)
            .set_total_compressed_size(bytes.len() as i64)
            .set_total_uncompressed_size(uncompressed as i64)
            .set_num_values(self.written.rows as i64)
            .set_data_page_offset(dictionary as i64)
            .set_dictionary_page_offset((dictionary > 0).then_some(0));
        // With values outside of the dictionary, its least and greatest are not the column's.
        if !self.dictionary.full {
            metadata = metadata.set_statistics(self.dictionary.statistics(self.written.nulls as u64));
        }
        let mut filter = self.filter;
        // It was made for as many different values as there may be, and is as large as those need that came.
        if let Some(filter) = &mut filter {
            filter.fold_to_target_fpp(BLOOM_FPP);
        }
        if self.bloom && filter.is_none() && !self.dictionary.texts.is_empty() {
            let mut exact = Sbbf::new_with_ndv_fpp(self.dictionary.texts.len() as u64, BLOOM_FPP)?;
            self.dictionary.iter().for_each(|text| exact.insert(text));
            filter = Some(exact);
        }
        let close = ColumnCloseResult {
            bytes_written: bytes.len() as u64,
            rows_written: self.written.rows as u64,
            metadata: metadata.build()?,
            bloom_filter: filter,
            column_index: None,
            offset_index: Some(self.written.offsets.build()),
        };
        // Pages were counted as if no dictionary stood before them.
        Ok((bytes.into(), close.update_dictionary_location(dictionary)?))
    }
}

impl Dictionary {
    /// The code of a text, a new one when it wasn't seen before; `None` when it wasn't and there is no room.
    fn code(&mut self, data: &[u8], range: Range<usize>) -> Option<u32> {
        let Some(key) = Key::new(data, &range) else { return self.look_up(&data[range]) };
        // Neighbours are often the same: one host, one level, one logger after the other.
        if let Some((last, code)) = self.last
            && last == key
        {
            return Some(code);
        }
        let place = key.place();
        let code = match self.recent.get(place) {
            Some(Some((recent, code))) if *recent == key => *code,
            _ => {
                let code = self.look_up(&data[range])?;
                self.recent.resize(RECENT, None);
                self.recent[place] = Some((key, code));
                code
            }
        };
        self.last = Some((key, code));
        Some(code)
    }

    fn look_up(&mut self, text: &[u8]) -> Option<u32> {
        let (plain, texts) = (&self.plain, &self.texts);
        let hash = self.hashes.hash_one(text);
        match self.codes.find(hash, |code| plain[texts[*code as usize].clone()] == *text) {
            Some(code) => Some(*code),
            None if plain.len() + 4 + text.len() > DICTIONARY_BYTES => None,
            None => Some(self.add(hash, text)),
        }
    }

    fn add(&mut self, hash: u64, text: &[u8]) -> u32 {
        let code = self.texts.len() as u32;
        put_plain(&mut self.plain, text);
        self.texts.push(self.plain.len() - text.len()..self.plain.len());
        let (plain, texts, hashes) = (&self.plain, &self.texts, &self.hashes);
        self.codes.insert_unique(hash, code, |code| hashes.hash_one(&plain[texts[*code as usize].clone()]));
        code
    }

    fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.texts.iter().map(|range| &self.plain[range.clone()])
    }

    /// Bits of a code.
    fn width(&self) -> u32 {
        (self.texts.len() as u32).saturating_sub(1).max(1).ilog2() + 1
    }

    fn page(&self, level: i32) -> Result<CompressedPage> {
        let page = Page::DictionaryPage {
            buf: compress(&self.plain, level)?,
            num_values: self.texts.len() as u32,
            encoding: Encoding::PLAIN,
            is_sorted: false,
        };
        Ok(CompressedPage::new(page, self.plain.len()))
    }

    fn statistics(&self, nulls: u64) -> Statistics {
        let bound =
            |value: Option<&[u8]>| value.filter(|v| v.len() <= STATISTIC_BYTES).map(|v| ByteArray::from(v.to_vec()));
        let (least, greatest) = (bound(self.iter().min()), bound(self.iter().max()));
        let (has_least, has_greatest) = (least.is_some(), greatest.is_some());
        let statistics = ValueStatistics::new(least, greatest, None, Some(nulls), false);
        Statistics::ByteArray(statistics.with_min_is_exact(has_least).with_max_is_exact(has_greatest))
    }
}

impl Key {
    /// `None` for a text that is too long.
    #[inline]
    fn new(data: &[u8], range: &Range<usize>) -> Option<Self> {
        let length = range.len();
        let (first, last) = match length {
            0 => (0, 0),
            1..=16 => (sixteen(data, range.start) & (u128::MAX >> (128 - 8 * length)), 0),
            17..=32 => (sixteen(data, range.start), sixteen(data, range.end - 16)),
            _ => return None,
        };
        Some(Self { first, last, length: length as u32 })
    }

    /// Where among [`RECENT`] it is kept. A bad spread costs a look-up, never a wrong code.
    #[inline]
    fn place(&self) -> usize {
        let folded = self.first ^ self.last.rotate_left(41);
        let mixed = (folded as u64 ^ ((folded >> 64) as u64).rotate_left(23)) ^ u64::from(self.length);
        (mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - RECENT.ilog2())) as usize
    }
}

/// Sixteen bytes from `start` on, zeros where there are no more.
#[inline]
fn sixteen(data: &[u8], start: usize) -> u128 {
    if let Some(whole) = data.get(start..start + 16).and_then(|bytes| bytes.try_into().ok()) {
        return u128::from_le_bytes(whole);
    }
    // Only where an array's texts end.
    let mut bytes = [0; 16];
    bytes[..data.len() - start].copy_from_slice(&data[start..]);
    u128::from_le_bytes(bytes)
}

impl Written {
    fn put(&mut self, page: CompressedPage, rows: usize, nulls: usize) -> Result<()> {
        let spec = write_page(&mut self.sink, page)?;
        self.offsets.append_row_count(rows as i64);
        self.offsets.append_offset_and_size(spec.offset as i64, spec.compressed_size as i32);
        self.offsets.append_unencoded_byte_array_data_bytes(None);
        self.uncompressed += spec.uncompressed_size;
        self.rows += rows;
        self.nulls += nulls;
        Ok(())
    }
}

fn write_page(sink: &mut TrackedWrite<Vec<u8>>, page: CompressedPage) -> Result<parquet::column::page::PageWriteSpec> {
    SerializedPageWriter::new(sink).write_page(page)
}

fn put_plain(out: &mut Vec<u8>, text: &[u8]) {
    out.extend_from_slice(&(text.len() as u32).to_le_bytes());
    out.extend_from_slice(text);
}

thread_local! {
    /// A context takes about 1 MB and a moment to make, so each thread has one for all of its columns. What it was
    /// used for before doesn't change its output.
    static COMPRESSOR: RefCell<Option<(i32, zstd::bulk::Compressor<'static>)>> = const { RefCell::new(None) };
}

fn compress(bytes: &[u8], level: i32) -> Result<Bytes> {
    let external = |error: std::io::Error| ParquetError::External(Box::new(error));
    COMPRESSOR.with_borrow_mut(|kept| {
        let mut compressor = match kept.take() {
            Some((of, compressor)) if of == level => compressor,
            _ => zstd::bulk::Compressor::new(level).map_err(external)?,
        };
        let compressed = compressor.compress(bytes).map_err(external);
        *kept = Some((level, compressor));
        Ok(compressed?.into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{ArrayRef, AsArray, RecordBatch};
    use arrow::datatypes::{DataType, Field, Schema};
    use parquet::arrow::ArrowWriter;
    use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
    use parquet::file::metadata::PageIndexPolicy;
    use parquet::file::reader::{FileReader, SerializedFileReader};
    use proptest::prelude::*;
    use std::sync::Arc;

    /// A file of one column, written in the given pieces.
    fn file(pieces: &[StringArray], nullable: bool, bloom: bool) -> Bytes {
        let schema = Arc::new(Schema::new(vec![Field::new("c", DataType::Utf8, nullable)]));
        let writer = ArrowWriter::try_new(Vec::new(), schema, None).unwrap();
        let (mut writer, _) = writer.into_serialized_writer().unwrap();
        let mut column = DictionaryColumn::new(writer.schema_descr().column(0), 1, bloom);
        pieces.iter().for_each(|piece| column.write(piece).unwrap());
        let (bytes, close) = column.close().unwrap();
        let mut group = writer.next_row_group().unwrap();
        group.append_column(&bytes, close).unwrap();
        group.close().unwrap();
        writer.into_inner().unwrap().into()
    }

    /// What a reader that checks page indices gets.
    fn read(file: &Bytes) -> Vec<Option<String>> {
        let options = ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Optional);
        let reader = ParquetRecordBatchReaderBuilder::try_new_with_options(file.clone(), options).unwrap();
        let batches: Vec<RecordBatch> = reader.build().unwrap().map(|batch| batch.unwrap()).collect();
        let texts = |batch: &RecordBatch| -> Vec<Option<String>> {
            let column: ArrayRef = batch.column(0).clone();
            column.as_string::<i32>().iter().map(|text| text.map(str::to_owned)).collect()
        };
        batches.iter().flat_map(texts).collect()
    }

    fn check(texts: &[Option<String>], pieces: usize) -> Bytes {
        let arrays: Vec<StringArray> = texts.chunks(texts.len().div_ceil(pieces)).map(|c| c.iter().collect()).collect();
        let file = file(&arrays, true, true);
        assert!(read(&file) == texts, "{} texts in {pieces} pieces", texts.len());
        file
    }

    fn some(count: usize, text: impl Fn(usize) -> String) -> Vec<Option<String>> {
        (0..count).map(|number| Some(text(number))).collect()
    }

    proptest! {
        #[test]
        fn texts_read_back(
            texts in proptest::collection::vec(proptest::option::of("[ab]{0,3}|[a-c]{14,18}|[xy]{31,34}|\\PC{0,9}"), 1..300),
            pieces in 1usize..5,
        ) {
            check(&texts, pieces);
        }
    }

    #[test]
    fn pages_of_all_kinds_read_back() {
        let rows = 2 * PAGE_ROWS + 77;
        check(&some(rows, |_| "one".into()), 3);
        check(&some(rows, |n| format!("{}", n * n % 1_000)), 7);
        check(&vec![None; rows], 2);
        let mut sparse = vec![None; rows];
        sparse[PAGE_ROWS + 3] = Some("here".into());
        check(&sparse, 5);
        let rare = |n: usize| (n % 9 > 6).then(|| format!("v{}", n % 70));
        check(&(0..rows).map(rare).collect::<Vec<_>>(), 4);
        let required = [StringArray::from(vec!["a", "b", "a"])];
        assert_eq!(read(&file(&required, false, false)), ["a", "b", "a"].map(|t| Some(t.to_owned())));
    }

    #[test]
    fn what_fits_no_dictionary_stands_in_the_pages() {
        // The dictionary is full in the middle of a page, of a piece and of the column.
        let texts = some(60_000, |n| if n % 3 == 0 { "again".into() } else { format!("{n:040}") });
        let file = check(&texts, 4);
        let reader = SerializedFileReader::new(file).unwrap();
        let column = reader.metadata().row_group(0).column(0);
        assert!(column.statistics().is_none(), "its least and greatest value are not known");
        let encodings: Vec<Encoding> = column.encodings().collect();
        assert!(encodings.contains(&Encoding::PLAIN) && encodings.contains(&Encoding::RLE_DICTIONARY));
        let large = some(3, |n| n.to_string().repeat(DICTIONARY_BYTES));
        check(&large, 1);
    }

    #[test]
    fn statistics_and_bloom_filters_are_those_of_the_rows() {
        for texts in [some(900, |n| format!("k{}", n % 40)), some(60_000, |n| format!("{n:040}"))] {
            let file = check(&texts, 2);
            let options = parquet::file::serialized_reader::ReadOptionsBuilder::new().build();
            let reader = SerializedFileReader::new_with_options(file, options).unwrap();
            let properties = parquet::file::properties::ReaderProperties::builder().set_read_bloom_filter(true).build();
            let options =
                parquet::file::serialized_reader::ReadOptionsBuilder::new().with_reader_properties(properties).build();
            let bytes = check(&texts, 2);
            let with_filters = SerializedFileReader::new_with_options(bytes, options).unwrap();
            let filter = with_filters.get_row_group(0).unwrap().get_column_bloom_filter(0).cloned().unwrap();
            assert!(texts.iter().flatten().all(|text| filter.check(text.as_str())));
            let strangers = (0..1_000).filter(|n| filter.check(format!("stranger {n}").as_str())).count();
            assert!(strangers < 200, "{strangers} of 1,000 strangers pass");
            if let Some(statistics) = reader.metadata().row_group(0).column(0).statistics() {
                assert_eq!(statistics.min_bytes_opt(), Some(&b"k0"[..]));
                assert_eq!(statistics.max_bytes_opt(), Some(&b"k9"[..]));
                assert_eq!(statistics.null_count_opt(), Some(0));
            }
        }
    }

    #[test]
    fn a_sample_tells_few_values_from_many() {
        let array = |count: usize, of: usize| (0..count).map(|n| Some((n % of).to_string())).collect::<StringArray>();
        let few = |array: &StringArray| has_few_values([StringArray::new_null(9), array.clone()].iter());
        assert_eq!(few(&array(5_000, 3)), Some(true));
        assert_eq!(few(&array(5_000, 5_000)), Some(false));
        assert_eq!(few(&array(10, 1)), None);
    }
}
