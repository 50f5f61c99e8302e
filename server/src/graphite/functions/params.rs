//! Parameters of functions, and the arguments that are given for them.

use super::{Failure, Function, Series, aggregation::Aggregation, parse_offset, str_of_float};

/// A value of an argument.
#[derive(Clone, Debug)]
pub(in super::super) enum Value {
    Series(Vec<Series>),
    Integer(i64),
    Float(f64),
    Text(String),
    Bool(bool),
    None,
}

/// A parameter of a function.
#[derive(Debug)]
pub(super) struct Param {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) required: bool,
    /// Takes all arguments that are left.
    pub(super) multiple: bool,
    /// The values that are allowed; empty if every value is.
    pub(super) options: &'static [&'static str],
}

impl Param {
    pub(super) const fn required(name: &'static str, kind: Kind) -> Self {
        Self { name, kind, required: true, multiple: false, options: &[] }
    }

    pub(super) const fn optional(name: &'static str, kind: Kind) -> Self {
        Self { required: false, ..Self::required(name, kind) }
    }

    pub(super) const fn multiple(self) -> Self {
        Self { multiple: true, ..self }
    }

    pub(super) const fn options(self, options: &'static [&'static str]) -> Self {
        Self { options, ..self }
    }

    fn convert(&self, value: Value) -> Result<Value, Failure> {
        if matches!(value, Value::None) && !self.required {
            return Ok(value);
        }
        if !self.options.is_empty()
            && !matches!(&value, Value::Text(text) if self.options.contains(&text.as_str()))
        {
            return Err(format!("{} must be one of {}", self.name, self.options.join(", ")).into());
        }
        self.kind
            .convert(value)
            .ok_or_else(|| format!("{} is not of type {}", self.name, self.kind.name()).into())
    }
}

/// The type of a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    SeriesList,
    Float,
    Integer,
    IntOrInf,
    Interval,
    IntOrInterval,
    /// The index of a node.
    Node,
    NodeOrTag,
    Text,
    Tag,
    Boolean,
    AggFunc,
    /// The name of an aggregation or of a function that combines series.
    AggOrSeriesFunc,
    Any,
}

impl Kind {
    /// The name in graphite-web, which clients know.
    fn name(self) -> &'static str {
        match self {
            Self::SeriesList => "seriesList",
            Self::Float => "float",
            Self::Integer => "integer",
            Self::IntOrInf => "intOrInf",
            Self::Interval => "interval",
            Self::IntOrInterval => "intOrInterval",
            Self::Node => "node",
            Self::NodeOrTag => "nodeOrTag",
            Self::Text => "string",
            Self::Tag => "tag",
            Self::Boolean => "boolean",
            Self::AggFunc => "aggFunc",
            Self::AggOrSeriesFunc => "aggOrSeriesFunc",
            Self::Any => "any",
        }
    }

    /// Returns `value` as this type, or `None` if it is of another one.
    fn convert(self, value: Value) -> Option<Value> {
        match self {
            Self::Any => Some(value),
            Self::SeriesList => matches!(value, Value::Series(_)).then_some(value),
            Self::Float => to_float(&value).map(Value::Float),
            Self::Integer | Self::Node => to_integer(&value).map(Value::Integer),
            Self::IntOrInf => match to_integer(&value) {
                Some(integer) => Some(Value::Integer(integer)),
                None => to_float(&value).filter(|&f| f == f64::INFINITY).map(Value::Float),
            },
            Self::Interval => match &value {
                Value::Text(text) => parse_offset(text).is_ok().then_some(value),
                _ => None,
            },
            Self::IntOrInterval => match &value {
                Value::Text(text) => parse_offset(text).is_ok().then_some(value),
                Value::Float(float) => Some(Value::Integer(*float as i64)),
                Value::Integer(_) => Some(value),
                _ => None,
            },
            Self::NodeOrTag => match value {
                Value::Float(float) if float.fract() == 0.0 => Some(Value::Integer(float as i64)),
                Value::Integer(_) | Value::Text(_) => Some(value),
                _ => None,
            },
            Self::Text | Self::Tag => matches!(value, Value::Text(_)).then_some(value),
            Self::Boolean => to_bool(&value).map(Value::Bool),
            Self::AggFunc => match &value {
                Value::Text(text) => Aggregation::parse(text).is_some().then_some(value),
                _ => None,
            },
            Self::AggOrSeriesFunc => match &value {
                Value::Text(text) => Aggregation::is_callback(text).then_some(value),
                _ => None,
            },
        }
    }
}

fn to_float(value: &Value) -> Option<f64> {
    match value {
        Value::Integer(integer) => Some(*integer as f64),
        Value::Float(float) => Some(*float),
        Value::Text(text) => text.trim().parse().ok(),
        _ => None,
    }
}

fn to_integer(value: &Value) -> Option<i64> {
    match value {
        Value::Integer(integer) => Some(*integer),
        Value::Text(text) => text.trim().parse().ok(),
        _ => None,
    }
}

fn to_bool(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(flag) => Some(*flag),
        Value::Integer(number @ 0..=1) => Some(*number == 1),
        Value::Text(text) if text.eq_ignore_ascii_case("true") => Some(true),
        Value::Text(text) if text.eq_ignore_ascii_case("false") => Some(false),
        _ => None,
    }
}

/// The arguments of a call, converted to the types of the parameters and in their order. Those that were not
/// given are [`Value::None`].
#[derive(Debug)]
pub(in super::super) struct Args(Vec<Value>);

impl Args {
    /// Checks the arguments of a call.
    pub(in super::super) fn new(
        function: &Function,
        positional: Vec<Value>,
        named: Vec<(String, Value)>,
    ) -> Result<Self, Failure> {
        let params = function.params;
        let mut values = Vec::with_capacity(params.len().max(positional.len()));
        for (index, value) in positional.into_iter().enumerate() {
            let last = params.last().filter(|param| param.multiple);
            let Some(param) = params.get(index).or(last) else {
                return Err("too many arguments".into());
            };
            values.push(param.convert(value)?);
        }
        let given = values.len();
        values.resize_with(given.max(params.len()), || Value::None);
        for (name, value) in named {
            let Some(index) = params.iter().position(|param| param.name == name) else {
                return Err(format!("unknown argument {name:?}").into());
            };
            if index < given {
                return Err(format!("{name} is given twice").into());
            }
            values[index] = params[index].convert(value)?;
        }
        for (param, value) in params.iter().zip(&values) {
            if param.required && matches!(value, Value::None) {
                return Err(format!("{} is missing", param.name).into());
            }
        }
        // A parameter that takes any number of arguments may have none.
        if given < params.len()
            && params.last().is_some_and(|param| param.multiple)
            && matches!(values.last(), Some(Value::None))
        {
            values.pop();
        }
        Ok(Self(values))
    }

    /// Returns true if the first argument is a list of no series.
    pub(in super::super) fn is_without_series(&self) -> bool {
        matches!(self.0.first(), Some(Value::Series(series)) if series.is_empty())
    }

    /// Returns how many values the series have.
    pub(in super::super) fn points(&self) -> usize {
        let lists = self.0.iter().map(|value| match value {
            Value::Series(series) => series.iter().map(|series| series.values.len()).sum(),
            _ => 0,
        });
        lists.sum()
    }

    /// Takes the series at `index`. They are then gone.
    pub(super) fn series(&mut self, index: usize) -> Vec<Series> {
        match self.0.get_mut(index) {
            Some(Value::Series(series)) => std::mem::take(series),
            _ => Vec::new(),
        }
    }

    /// Takes the series of all arguments, in order.
    pub(super) fn all_series(&mut self) -> Vec<Series> {
        (0..self.0.len()).flat_map(|index| self.series(index)).collect()
    }

    /// Returns the largest step of the series at `index`.
    pub(super) fn max_step(&self, index: usize) -> i64 {
        match self.value(index) {
            Value::Series(series) => series.iter().map(|series| series.step).max().unwrap_or(1),
            _ => 1,
        }
    }

    pub(super) fn value(&self, index: usize) -> &Value {
        self.0.get(index).unwrap_or(&Value::None)
    }

    /// Returns the arguments from `index` on.
    pub(super) fn rest(&self, index: usize) -> &[Value] {
        self.0.get(index..).unwrap_or_default()
    }

    pub(super) fn float(&self, index: usize) -> Option<f64> {
        to_float(self.value(index))
    }

    pub(super) fn integer(&self, index: usize) -> Option<i64> {
        to_integer(self.value(index))
    }

    pub(super) fn text(&self, index: usize) -> Option<&str> {
        match self.value(index) {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn is_true(&self, index: usize) -> bool {
        to_bool(self.value(index)) == Some(true)
    }

    /// Returns the argument as `str` prints it.
    pub(super) fn display(&self, index: usize) -> String {
        match self.value(index) {
            Value::Integer(integer) => integer.to_string(),
            Value::Float(float) => str_of_float(*float),
            Value::Text(text) => text.clone(),
            Value::Bool(true) => "True".into(),
            Value::Bool(false) => "False".into(),
            Value::None | Value::Series(_) => "None".into(),
        }
    }
}

/// The description of a function, as `/functions` shows it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct FunctionInfo {
    /// The name.
    pub name: &'static str,
    /// The name with its parameters.
    pub function: String,
    /// What the function does.
    pub description: &'static str,
    /// The module of graphite-web that defines it.
    pub module: &'static str,
    /// The group of functions to which it belongs.
    pub group: &'static str,
    /// The parameters.
    pub params: Vec<ParamInfo>,
}

/// The description of a parameter.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct ParamInfo {
    /// The name.
    pub name: &'static str,
    /// The type, such as `seriesList`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// True if the argument has to be given.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub required: bool,
    /// True if the argument may be given any number of times.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub multiple: bool,
    /// The values that are allowed, if not all are.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<&'static str>,
}

impl Function {
    /// Returns the description of the function under one of its names.
    pub(super) fn info(&self) -> FunctionInfo {
        let params = self.params.iter().map(|param| {
            let options = match param.kind {
                Kind::AggFunc | Kind::AggOrSeriesFunc => Aggregation::NAMES,
                _ => param.options,
            };
            ParamInfo {
                name: param.name,
                kind: param.kind.name(),
                required: param.required,
                multiple: param.multiple,
                options: options.to_vec(),
            }
        });
        let names = self.params.iter().map(|param| match param {
            Param { multiple: true, name, .. } => format!("*{name}"),
            Param { name, .. } => (*name).to_owned(),
        });
        FunctionInfo {
            name: self.name,
            function: format!("{}({})", self.name, names.collect::<Vec<_>>().join(", ")),
            description: self.description,
            module: "graphite.render.functions",
            group: self.group,
            params: params.collect(),
        }
    }
}
