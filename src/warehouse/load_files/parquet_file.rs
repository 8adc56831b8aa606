//! Parquet load files: every column optional, row groups of bounded size (warehouse.md 9.3).

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use parquet::basic::{Compression, ConvertedType, Repetition, Type as Physical};
use parquet::column::writer::ColumnWriter;
use parquet::data_type::ByteArray;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::Type;

use super::Cells;
use super::row::text;
use crate::destination::warehouse::Json;
use crate::warehouse::failure::Failure;
use crate::warehouse::schema::TableSchema;

/// Bytes of rows of one file that become a row group.
const ROW_GROUP: usize = 8 << 20;

/// What a cell costs in memory besides its text.
const CELL_BYTES: usize = 16;

/// Values of a column that wait, without the missing ones.
enum Values {
    Int(Vec<i64>),
    Float(Vec<f64>),
    Boolean(Vec<bool>),
    Time(Vec<i64>),
    Text(Vec<ByteArray>),
}

struct Column {
    values: Values,
    /// 1 for each row with a value, 0 for each without.
    present: Vec<i16>,
}

pub(super) struct ParquetFile {
    writer: SerializedFileWriter<File>,
    columns: Vec<Column>,
    waiting_bytes: usize,
}

impl ParquetFile {
    pub(super) fn new(path: &Path, columns: &TableSchema) -> Result<ParquetFile, Failure> {
        let mut fields = Vec::with_capacity(columns.len());
        let mut waiting = Vec::with_capacity(columns.len());
        for (name, kind) in columns {
            let (physical, converted, values) = match kind.as_str() {
                "int" | "bigint" => (Physical::INT64, ConvertedType::NONE, Values::Int(Vec::new())),
                "float" => (Physical::DOUBLE, ConvertedType::NONE, Values::Float(Vec::new())),
                "boolean" => (Physical::BOOLEAN, ConvertedType::NONE, Values::Boolean(Vec::new())),
                "datetime" => (Physical::INT64, ConvertedType::TIMESTAMP_MICROS, Values::Time(Vec::new())),
                _ => (Physical::BYTE_ARRAY, ConvertedType::UTF8, Values::Text(Vec::new())),
            };
            let field = Type::primitive_type_builder(name, physical)
                .with_repetition(Repetition::OPTIONAL)
                .with_converted_type(converted)
                .build()
                .map_err(|error| broken(&error))?;
            fields.push(Arc::new(field));
            waiting.push(Column { values, present: Vec::new() });
        }
        let schema = Type::group_type_builder("schema").with_fields(fields).build().map_err(|error| broken(&error))?;
        let properties = WriterProperties::builder()
            .set_compression(Compression::SNAPPY)
            // Statistics of row groups, but no column index: readers of old engines stumble over it.
            .set_statistics_enabled(EnabledStatistics::Chunk)
            .set_offset_index_disabled(true)
            .set_created_by(concat!("pintle ", env!("CARGO_PKG_VERSION")).to_owned())
            .build();
        let file = File::create(path)?;
        let writer =
            SerializedFileWriter::new(file, Arc::new(schema), Arc::new(properties)).map_err(|error| broken(&error))?;
        Ok(ParquetFile { writer, columns: waiting, waiting_bytes: 0 })
    }

    pub(super) fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }

    pub(super) fn write(&mut self, cells: Cells<'_>) -> Result<(), Failure> {
        for (column, cell) in self.columns.iter_mut().zip(&cells) {
            let is_present = cell.as_ref().is_some_and(|value| column.values.push(value, &mut self.waiting_bytes));
            column.present.push(i16::from(is_present));
            self.waiting_bytes += CELL_BYTES;
        }
        if self.waiting_bytes >= ROW_GROUP { self.flush() } else { Ok(()) }
    }

    /// Writes what waits as a row group.
    pub(super) fn flush(&mut self) -> Result<(), Failure> {
        if self.columns.iter().all(|column| column.present.is_empty()) {
            return Ok(());
        }
        self.write_row_group().map_err(|error| broken(&error))?;
        self.waiting_bytes = 0;
        Ok(())
    }

    fn write_row_group(&mut self) -> Result<(), parquet::errors::ParquetError> {
        let mut group = self.writer.next_row_group()?;
        let mut columns = self.columns.iter_mut();
        while let Some(mut writer) = group.next_column()? {
            let Some(column) = columns.next() else { break };
            let present = Some(column.present.as_slice());
            match (writer.untyped(), &column.values) {
                (ColumnWriter::Int64ColumnWriter(writer), Values::Int(values) | Values::Time(values)) => {
                    writer.write_batch(values, present, None)?;
                }
                (ColumnWriter::DoubleColumnWriter(writer), Values::Float(values)) => {
                    writer.write_batch(values, present, None)?;
                }
                (ColumnWriter::BoolColumnWriter(writer), Values::Boolean(values)) => {
                    writer.write_batch(values, present, None)?;
                }
                (ColumnWriter::ByteArrayColumnWriter(writer), Values::Text(values)) => {
                    writer.write_batch(values, present, None)?;
                }
                // The writers follow the schema, which was made from these very columns.
                _ => {}
            }
            writer.close()?;
            column.clear();
        }
        group.close()?;
        Ok(())
    }

    pub(super) fn finish(mut self) -> Result<(), Failure> {
        self.flush()?;
        self.writer.close().map_err(|error| broken(&error))?;
        Ok(())
    }
}

impl Column {
    fn clear(&mut self) {
        self.present.clear();
        match &mut self.values {
            Values::Int(values) | Values::Time(values) => values.clear(),
            Values::Float(values) => values.clear(),
            Values::Boolean(values) => values.clear(),
            Values::Text(values) => values.clear(),
        }
    }
}

impl Values {
    /// Takes a value; one that does not fit is missing.
    fn push(&mut self, value: &Json<'_>, bytes: &mut usize) -> bool {
        match (self, value) {
            (Values::Int(values), Json::Number(number)) => match number.as_i64() {
                Some(number) => values.push(number),
                None => return false,
            },
            (Values::Float(values), Json::Number(number)) => match number.as_f64() {
                Some(number) => values.push(number),
                None => return false,
            },
            (Values::Boolean(values), Json::Bool(flag)) => values.push(*flag),
            (Values::Time(values), Json::Text(time)) => match time.parse::<Timestamp>() {
                Ok(time) => values.push(time.as_microsecond()),
                Err(_) => return false,
            },
            (Values::Text(values), value) => {
                let text = text(value);
                *bytes += text.len();
                values.push(ByteArray::from(text.as_bytes().to_vec()));
            }
            _ => return false,
        }
        true
    }
}

fn broken(error: &parquet::errors::ParquetError) -> Failure {
    Failure::refused(format!("cannot write a Parquet file: {error}"))
}
