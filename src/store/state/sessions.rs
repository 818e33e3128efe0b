//! The rows of a session as a whole: its existence, its losses, and its end.

use super::Changes;
use crate::base::SessionNumber;
use crate::session::Losses;
use crate::store::StoreError;
use crate::store::base::{Base, bounds};
use crate::store::rows::{self, Row, SessionRow, Table};

impl Changes {
    /// Whether there is such a session. If not, the record that refers to it is ignored.
    pub(super) fn knows(&mut self, base: &dyn Base, sid: SessionNumber) -> Result<bool, StoreError> {
        self.raise(sid);
        let known = match self.sessions.get(&sid) {
            Some(&known) => known,
            None => {
                let known = self.has_row(base, Table::Sessions, &rows::key(sid))?;
                self.sessions.insert(sid, known);
                known
            }
        };
        self.ignored += u64::from(!known);
        Ok(known)
    }

    /// Changes the row of a session. If there is none, the record is ignored.
    pub(super) fn change_session(
        &mut self,
        base: &dyn Base,
        sid: SessionNumber,
        change: impl FnOnce(&mut SessionRow<'_>),
    ) -> Result<(), StoreError> {
        self.raise(sid);
        let Some(value) = self.row(base, Table::Sessions, &rows::key(sid))? else {
            self.ignored += 1;
            return Ok(());
        };
        match SessionRow::decode(&value) {
            Ok(mut row) => {
                change(&mut row);
                self.set(Table::Sessions, &rows::key(sid), |out| row.encode(out));
            }
            Err(_) => self.bad_rows += 1,
        }
        Ok(())
    }

    /// Changes the losses of a session.
    pub(super) fn change_losses(
        &mut self,
        base: &dyn Base,
        sid: SessionNumber,
        change: impl FnOnce(&mut Losses),
    ) -> Result<(), StoreError> {
        if !self.knows(base, sid)? {
            return Ok(());
        }
        let key = rows::key(sid);
        let before = self.row(base, Table::Losses, &key)?;
        let decoded = before.as_deref().map(rows::decode_losses);
        self.bad_rows += u64::from(matches!(decoded, Some(Err(_))));
        let mut losses = decoded.and_then(Result::ok).unwrap_or_default();
        change(&mut losses);
        if !losses.is_empty() {
            self.set(Table::Losses, &key, |out| rows::encode_losses(&losses, out));
        } else if before.is_some() {
            self.remove(Table::Losses, &key);
        }
        Ok(())
    }

    /// Removes a session with all its rows.
    pub(crate) fn end_session(&mut self, base: &dyn Base, sid: SessionNumber) -> Result<(), StoreError> {
        if !self.knows(base, sid)? {
            return Ok(());
        }
        self.sessions.insert(sid, false);
        self.remove(Table::Sessions, &rows::key(sid));
        if self.has_row(base, Table::Losses, &rows::key(sid))? {
            self.remove(Table::Losses, &rows::key(sid));
        }
        for table in [Table::Subscriptions, Table::Held] {
            for key in self.keys_of(base, table, sid)? {
                self.remove(table, &key);
            }
        }
        for key in self.keys_of(base, Table::Deliveries, sid)? {
            self.settle(base, &key)?;
        }
        Ok(())
    }

    /// The keys of a table that belong to a session.
    fn keys_of(&self, base: &dyn Base, table: Table, sid: SessionNumber) -> Result<Vec<Row>, StoreError> {
        let (from, until) = (rows::key(sid), sid.get().checked_add(1).map(u64::to_be_bytes));
        let until = until.as_ref().map(|key| &key[..]);
        let mut keys = Vec::new();
        if sid.get() > self.base_meta.highest {
            let mine = self.tables[table as usize].range::<[u8], _>(bounds(&from, until));
            keys.extend(mine.filter(|(_, value)| value.is_some()).map(|(key, _)| key.clone()));
        } else {
            self.scan(base, table, &from, until, &mut |key, _| keys.push(Row::from_slice(key)))?;
        }
        Ok(keys)
    }
}
