//! Messages and the deliveries that refer to them. A message is removed with its last delivery.

use super::{Changes, by_number};
use crate::base::{IntentNumber, MessageNumber};
use crate::store::base::Base;
use crate::store::record::put_message;
use crate::store::rows::{self, DeliveryRow, IntentRow, Table, decode_message};
use crate::store::{DeliveryKey, StoreError, StoredMessage};

impl Changes {
    /// Adds a message that deliveries will refer to, before [`Changes::end_fresh`].
    pub(crate) fn add_message(
        &mut self,
        base: &dyn Base,
        number: MessageNumber,
        message: &StoredMessage<'_>,
    ) -> Result<(), StoreError> {
        let key = rows::key(number);
        let was_there = match self.set(Table::Messages, &key, |out| put_message(out, message)) {
            Some(before) => before.is_some(),
            None if self.may_be_in_base(Table::Messages, &key) => base.contains(Table::Messages, &key)?,
            None => false,
        };
        if !was_there {
            self.fresh.insert(number, 0);
        }
        Ok(())
    }

    /// Adds a delivery, or writes it again.
    pub(crate) fn deliver(
        &mut self,
        base: &dyn Base,
        delivery: DeliveryKey,
        row: &DeliveryRow<'_>,
    ) -> Result<(), StoreError> {
        let is_there = self.fresh.contains_key(&row.message)
            || self.has_row(base, Table::Messages, &rows::key(row.message))?;
        if !is_there {
            self.ignored += 1;
            return Ok(());
        }
        let key = delivery.row();
        let before = match self.set(Table::Deliveries, &key, |out| row.encode(out)) {
            Some(before) => before,
            None if self.may_be_in_base(Table::Deliveries, &key) => base.get(Table::Deliveries, &key)?,
            None => None,
        };
        let before = before.and_then(|value| DeliveryRow::decode(&value).ok().map(|row| row.message));
        if before != Some(row.message) {
            self.count(base, row.message, 1)?;
            if let Some(before) = before {
                self.count(base, before, -1)?;
            }
        }
        Ok(())
    }

    /// Changes the row of a delivery. If there is none, the record is ignored.
    pub(super) fn change_delivery(
        &mut self,
        base: &dyn Base,
        delivery: DeliveryKey,
        change: impl FnOnce(&mut DeliveryRow<'_>),
    ) -> Result<(), StoreError> {
        self.raise(delivery.sid);
        self.raise(delivery.number);
        let key = delivery.row();
        let Some(value) = self.row(base, Table::Deliveries, &key)? else {
            self.ignored += 1;
            return Ok(());
        };
        match DeliveryRow::decode(&value) {
            Ok(mut row) => {
                change(&mut row);
                self.set(Table::Deliveries, &key, |out| row.encode(out));
            }
            Err(_) => self.bad_rows += 1,
        }
        Ok(())
    }

    /// Removes a delivery, and its message if it was the last one. Returns `false` if there is no such
    /// delivery.
    pub(crate) fn settle(&mut self, base: &dyn Base, key: &[u8]) -> Result<bool, StoreError> {
        let Some(value) = self.row(base, Table::Deliveries, key)? else { return Ok(false) };
        self.remove(Table::Deliveries, key);
        match DeliveryRow::decode(&value) {
            Ok(row) => self.count(base, row.message, -1)?,
            Err(_) => self.bad_rows += 1,
        }
        Ok(true)
    }

    /// Converts a delivery to an intent for its group.
    pub(super) fn return_delivery(
        &mut self,
        base: &dyn Base,
        key: &[u8],
        number: IntentNumber,
    ) -> Result<(), StoreError> {
        let Some(value) = self.row(base, Table::Deliveries, key)? else {
            self.ignored += 1;
            return Ok(());
        };
        if let Ok(DeliveryRow { message, group, .. }) = DeliveryRow::decode(&value)
            && let Some(stored) = self.row(base, Table::Messages, &rows::key(message))?
        {
            match decode_message(&stored) {
                Ok(message) => {
                    let row = IntentRow { targets: 0, stamp: None, group, message };
                    self.set(Table::Intents, &rows::key(number), |out| row.encode(out));
                }
                Err(_) => self.bad_rows += 1,
            }
        }
        self.settle(base, key)?;
        Ok(())
    }

    /// Changes the number of deliveries that refer to a message. Removes the message with the last one.
    fn count(&mut self, base: &dyn Base, message: MessageNumber, by: i32) -> Result<(), StoreError> {
        if let Some(count) = self.fresh.get_mut(&message) {
            *count = count.saturating_add_signed(by);
            return Ok(());
        }
        let key = rows::key(message);
        let value = self.row(base, Table::Counts, &key)?;
        let count = value.as_deref().and_then(read_count).unwrap_or(1).saturating_add_signed(by);
        if count == 0 {
            self.remove(Table::Messages, &key);
        }
        if count > 1 {
            self.set_count(message, count);
        } else if value.is_some() {
            self.remove(Table::Counts, &key);
        }
        Ok(())
    }

    fn set_count(&mut self, message: MessageNumber, count: u32) {
        self.set(Table::Counts, &rows::key(message), |out| out.extend_from_slice(&count.to_le_bytes()));
    }

    /// Ends a frame: the messages that are new in it have all their deliveries now.
    pub(crate) fn end_fresh(&mut self) {
        if self.fresh.is_empty() {
            return;
        }
        let fresh = std::mem::replace(&mut self.fresh, by_number());
        for (number, count) in fresh {
            match count {
                // Its delivery found no room in the queue, or is already settled.
                0 => self.remove(Table::Messages, &rows::key(number)),
                1 => {}
                _ => self.set_count(number, count),
            }
        }
    }
}

pub(crate) fn read_count(value: &[u8]) -> Option<u32> {
    Some(u32::from_le_bytes(value.try_into().ok()?))
}
