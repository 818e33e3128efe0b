//! Checks whether the rows agree with each other.

use super::StoreError;
use super::base::Base;
use super::rows::{
    self, DeliveryRow, IntentRow, RetainedRow, SessionRow, SubscriptionRow, Table, WillRow, decode_message,
};
use super::state::read_count;
use crate::base::{IntentNumber, SessionNumber};
use std::collections::{HashMap, HashSet};

/// Lists the faults of the rows. Rows may refer only to rows that exist, and the references to messages must
/// be counted correctly.
///
/// # Errors
/// [`StoreError`] if the base can't be read.
pub fn check_rows(base: &dyn Base) -> Result<Vec<String>, StoreError> {
    let mut wrong = Vec::new();
    let mut sessions = HashSet::new();
    base.scan(Table::Sessions, &[], None, &mut |key, value| match rows::raw_number_at(key, 0) {
        Some(sid) if SessionRow::decode(value).is_ok() => drop(sessions.insert(sid)),
        sid => wrong.push(format!("session {sid:?} can't be read")),
    })?;
    let mut owned = |table: Table, is_row: fn(&[u8], &[u8]) -> bool| {
        base.scan(table, &[], None, &mut |key, value| {
            let sid = rows::raw_number_at(key, 0).unwrap_or(0);
            if !is_row(key, value) {
                wrong.push(format!("a row of {} of session {sid} can't be read", table.name()));
            }
            if !sessions.contains(&sid) {
                wrong.push(format!("a row of {} names session {sid}, which is not there", table.name()));
            }
        })
    };
    owned(Table::Subscriptions, |key, value| {
        rows::filter_of(key).is_some() && SubscriptionRow::decode(value).is_ok()
    })?;
    owned(Table::Losses, |_, value| rows::decode_losses(value).is_ok())?;
    owned(Table::Held, |key, value| {
        rows::read_pair::<SessionNumber>(key).is_some() && rows::decode_held(value).is_ok()
    })?;
    owned(Table::Deliveries, |key, value| key.len() == 16 && DeliveryRow::decode(value).is_ok())?;

    // Message → the counted references minus the deliveries that were found.
    let mut left: HashMap<u64, i64> = HashMap::new();
    base.scan(Table::Messages, &[], None, &mut |key, value| {
        let number = rows::raw_number_at(key, 0).unwrap_or(0);
        if decode_message(value).is_err() {
            wrong.push(format!("message {number} can't be read"));
        }
        left.insert(number, 1);
    })?;
    base.scan(Table::Counts, &[], None, &mut |key, value| {
        let number = rows::raw_number_at(key, 0).unwrap_or(0);
        match left.get_mut(&number) {
            Some(count) => *count = read_count(value).map_or(0, i64::from),
            None => wrong.push(format!("message {number} is counted, and not there")),
        }
    })?;
    base.scan(Table::Deliveries, &[], None, &mut |_, value| {
        let Ok(row) = DeliveryRow::decode(value) else { return };
        match left.get_mut(&row.message.get()) {
            Some(count) => *count -= 1,
            None => wrong.push(format!("a delivery is of message {}, which is not there", row.message)),
        }
    })?;
    for (number, left) in left {
        if left != 0 {
            wrong.push(format!("message {number} is counted {left} times more than it is for someone"));
        }
    }
    let mut read = |table: Table, is_row: fn(&[u8], &[u8]) -> bool| {
        base.scan(table, &[], None, &mut |key, value| {
            if !is_row(key, value) {
                wrong.push(format!("a row of {} can't be read", table.name()));
            }
        })
    };
    read(Table::Retained, |key, value| RetainedRow::decode(key, value).is_ok())?;
    read(Table::Intents, |_, value| IntentRow::decode(value).is_ok())?;
    read(Table::Wills, |key, value| key.len() == 8 && WillRow::decode(value).is_ok())?;
    read(Table::Seen, |key, _| rows::read_pair::<IntentNumber>(key).is_some())?;
    // The faults were collected in maps, which have no order.
    wrong.sort_unstable();
    Ok(wrong)
}
