//! Shares out work over the threads by its cost.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

/// Cost of a task when there is more to do than that: short enough that no thread waits long for the last one.
const TASK: f64 = 4e6;

/// A range of rows and what it costs.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    pub rows: Range<usize>,
    pub cost: f64,
}

/// Cuts rows into ranges of about equal cost; a row that costs more than that is a range of its own. Depends on nothing
/// but the costs (floating-point operations, say).
pub fn by_cost(rows: usize, cost: impl Fn(usize) -> f64) -> Vec<Task> {
    let mut tasks = Vec::new();
    let mut task = Task { rows: 0..0, cost: 0.0 };
    for row in 0..rows {
        let cost = cost(row);
        if !task.rows.is_empty() && task.cost + cost > TASK {
            let next = Task { rows: row..row, cost: 0.0 };
            tasks.push(std::mem::replace(&mut task, next));
        }
        task.rows.end = row + 1;
        task.cost += cost;
    }
    if !task.rows.is_empty() {
        tasks.push(task);
    }
    tasks
}

/// Gives each task the part of `values`, `width` numbers a row, that its rows have. The tasks cover all rows in order.
pub fn with_rows<T>(tasks: Vec<Task>, mut values: &mut [T], width: usize) -> Vec<(Task, &mut [T])> {
    let mut shares = Vec::with_capacity(tasks.len());
    for task in tasks {
        let (share, rest) = values.split_at_mut((task.rows.len() * width).min(values.len()));
        values = rest;
        shares.push((task, share));
    }
    shares
}

/// Does every task, the long ones first, each thread with a workspace of its own. Answers in the order of the tasks.
pub fn run<I: Send, W, T: Send>(
    tasks: Vec<(Task, I)>,
    workspace_of: impl Fn() -> W + Sync,
    work: impl Fn(&mut W, &Task, I) -> T + Sync,
) -> Vec<T> {
    let count = tasks.len();
    let mut queue: Vec<(usize, (Task, I))> = tasks.into_iter().enumerate().collect();
    // Stable: beside the few long ones everything stays in order.
    queue.sort_by_key(|(_, (task, _))| task.cost <= TASK);
    let queue = Mutex::new(queue.into_iter());
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    let threads = rayon::current_num_threads().min(count);
    let parts: Vec<Vec<(usize, T)>> = (0..threads)
        .into_par_iter()
        .with_max_len(1)
        .map(|_| {
            let (mut done, mut workspace) = (Vec::new(), None);
            while let Some((at, (task, input))) = next() {
                done.push((at, work(workspace.get_or_insert_with(&workspace_of), &task, input)));
            }
            done
        })
        .collect();
    let mut done: Vec<(usize, T)> = parts.into_iter().flatten().collect();
    done.sort_unstable_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_done_once_and_answers_come_in_order() {
        let cost = |row: usize| if row % 100 == 7 { 3.0 * TASK } else { TASK / 10.0 };
        for rows in [0, 1, 9, 1000] {
            let tasks = by_cost(rows, cost);
            assert!(tasks.iter().all(|task| task.cost <= TASK * 1.0001 || task.rows.len() == 1));
            let mut values = vec![0u32; 2 * rows];
            let shares = with_rows(tasks, &mut values, 2);
            let seen = run(
                shares,
                || (),
                |(), task, share: &mut [u32]| {
                    share.iter_mut().for_each(|value| *value += 1);
                    task.rows.clone()
                },
            );
            assert!(values.iter().all(|&value| value == 1));
            assert!(seen.into_iter().flatten().eq(0..rows));
        }
    }
}
