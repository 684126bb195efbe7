"""Which puzzles of reasoning-gym may be trained on, by measurement, and why the others may not.

A task is allowed where, over many of its problems, the reference answer scores at least 0.99 and everything else that
was tried scores less: nothing, garbage, hostile text (code to run, enormous numbers, deep nesting, a hundred thousand
characters), and near misses (a digit changed, a character more or less, words swapped, a hedge behind the right
answer); where no scorer ran what it was given or needed seconds for it; and where making a problem takes less than
0.1 s and prints nothing. tests/unit/test_gym.py measures it; what is not named here is refused.
"""

from __future__ import annotations

_ALLOWED = """
    ab acre aiw arc_1d base_conversion basic_arithmetic binary_alternation bitwise_arithmetic calendar_arithmetic
    chain_sum circuit_logic color_cube_rotation count_bits count_primes course_schedule cryptarithm dice
    family_relationships gcd isomorphic_strings jugs largest_island lcm leg_counting letter_counting
    list_functions mahjong_puzzle maze mini_sudoku needle_haystack number_filtering number_sequence
    palindrome_generation palindrome_partitioning path_star prime_factorization products ransom_note rearc
    rectangle_count rotten_oranges self_reference sentence_reordering shortest_path simple_equations simple_geometry
    string_manipulation string_splitting string_synthesis sudoku syllogism tsumego word_sequence_reversal word_sorting
"""

_REASONS = {
    "its scorer runs the model's answer as code": """
        binary_matrix countdown intermediate_integration n_queens polynomial_multiplication puzzle24
        simple_integration spiral_matrix string_insertion""",
    "its scorer gives garbage full marks": "game_of_life_halting",
    "its scorer gives some wrong or hedged answers full marks": """
        advanced_geometry caesar_cipher coin_flip complex_arithmetic decimal_arithmetic decimal_chain_sum
        emoji_mystery fraction_simplification game_of_life gsm_symbolic kakurasu knights_knaves letter_jumble
        manipulate_matrix modulo_grid number_format number_sorting polynomial_equations pool_matrix power_function
        quantum_lock rotate_matrix sokoban spell_backward survo time_intervals tower_of_hanoi""",
    "it has no reference answer": "boxnet graph_color propositional_logic rubiks_cube rush_hour",
    "it takes too long to make a problem": """
        arc_agi figlet_font futoshiki group_anagrams knight_swap word_ladder zebra_puzzles""",
    "it runs programs while it makes problems": "bf codeio",
    "it is a mixture of other tasks": "composite",
}

ALLOWED = frozenset(_ALLOWED.split())

#: Task → why it is refused.
REFUSED = {task: reason for reason, tasks in _REASONS.items() for task in tasks.split()}
