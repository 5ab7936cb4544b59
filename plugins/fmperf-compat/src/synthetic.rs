//! A synthetic set of requests in the place of the original's, which were real people's
//! conversations: as many, about as long, and sharing beginnings in the same way.

use crate::sharegpt::{Entry, measured, warming};

/// Of each of 55 conversations: characters up to the question of each round, and tokens of the
/// answer to it, from the first round on.
const LENGTHS: &str = include_str!("synthetic.csv");

const WORDS: &str = "the of and to in that is was for it with as on be at by this had not are but from or have an they which one you were all her she there would their we him been has when who will no more if out so up said what its about than into them can only other time new some could these two may first then do any like my now over such our man me even most made after also well back must through years where much your way down should because long each just state people those too mr how little good world make very year still see own work men day get here between both life being under three never know same last another while us off might great go come since against right came take used himself few house use place during high without again home around small however found mrs part school thought went say general once upon water every left don't does got united number course war until always away something fact public though less put think almost hand enough far took head yet better set told nothing night end why called didn't eyes find going look asked later knew point next program city business give group toward young let days room president side social present given several order national possible rather second face per among form often things";

/// The requests that are measured, or those that warm up.
pub(crate) fn entries(warm_up: bool) -> Vec<Entry> {
    let conversations = conversations();
    if warm_up { warming(&conversations) } else { measured(&conversations) }
}

fn conversations() -> Vec<Vec<Entry>> {
    LENGTHS
        .lines()
        .zip(1..)
        .map(|(line, number)| {
            let numbers: Vec<usize> =
                line.split(',').map(|n| n.parse().expect("the table holds numbers")).collect();
            let longest = numbers.iter().step_by(2).max().copied().unwrap_or(0);
            let text = text(number, longest);
            numbers
                .chunks_exact(2)
                .map(|round| Entry {
                    input: text[..round[0]].trim_end().to_owned(),
                    output_length: u32::try_from(round[1]).expect("an answer is not that long"),
                })
                .collect()
        })
        .collect()
}

/// Words of a conversation, the same in every run: at least so many characters.
fn text(seed: u64, characters: usize) -> String {
    let words: Vec<&str> = WORDS.split(' ').collect();
    let mut text = String::with_capacity(characters + 16);
    // Numerical Recipes' generator; its upper half is random enough for words.
    let mut state = seed;
    while text.len() < characters {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        text.push_str(words[(state >> 33) as usize % words.len()]);
        text.push(' ');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sets_are_as_large_as_the_originals() {
        let check = |warm_up, count: usize, input: [usize; 3], output: [u32; 3]| {
            let entries = entries(warm_up);
            let inputs = || entries.iter().map(|entry| entry.input.len());
            let outputs = || entries.iter().map(|entry| entry.output_length);
            assert_eq!(entries.len(), count);
            let found = [inputs().min().unwrap(), inputs().sum::<usize>() / count];
            assert_eq!(found, input[..2]);
            assert_eq!(inputs().max(), Some(input[2]));
            let found = [outputs().min().unwrap(), outputs().sum(), outputs().max().unwrap()];
            assert_eq!(found, output);
        };
        // Characters: least, mean, most; tokens of answers: least, sum, most.
        check(false, 252, [669, 4966, 10408], [1, 56402, 690]);
        check(true, 55, [303, 1875, 4572], [12, 13005, 557]);
    }

    #[test]
    fn later_rounds_begin_with_what_was_said_before() {
        let conversations = conversations();
        for rounds in &conversations {
            assert!(rounds.len() >= 5);
            for two in rounds.windows(2) {
                assert!(
                    two[1].input.starts_with(&two[0].input)
                        && two[1].input.len() > two[0].input.len()
                );
            }
        }
        assert_ne!(conversations[0][0].input[..40], conversations[1][0].input[..40]);
    }
}
