from __future__ import annotations

from typing import Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, model_validator

from utils.errors import ConfigError
from utils.settings.schema import Given, Schema


class Oven(BaseModel):
    """How it is baked."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    degrees: int = Field(200, ge=50, le=300, description="heat")
    mode: Literal["fan", "grill"] = Field("fan", description="where the heat comes from")


class Cake(BaseModel):
    """What is baked."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str = Field(description="what it is called")
    eggs: int = Field(3, ge=0, description="how many")
    glazed: bool = Field(False, description="whether it shines")
    note: str | None = Field(None, description="a word to it")
    oven: Oven = Oven()

    @model_validator(mode="after")
    def _not_burnt(self) -> Cake:
        if self.glazed and self.oven.degrees > 250:
            raise ValueError(
                f"oven.degrees is {self.oven.degrees}, which burns what is glazed: set glazed=false"
            )
        return self


SCHEMA = Schema(Cake, "CAKE_")


def given(**values: object) -> dict[str, Given]:
    return {name.replace("__", "."): Given(value, f"--{name}") for name, value in values.items()}


def test_what_is_given_is_set_and_the_rest_has_its_default() -> None:
    cake = SCHEMA.build(given(name="plain", oven__degrees=180))
    assert (cake.name, cake.eggs, cake.oven.degrees, cake.oven.mode) == ("plain", 3, 180, "fan")
    assert SCHEMA.values(cake) == {
        "name": "plain",
        "eggs": 3,
        "glazed": False,
        "note": None,
        "oven.degrees": 180,
        "oven.mode": "fan",
    }


def test_every_problem_is_a_line_of_its_own_that_says_where_the_value_came_from() -> None:
    with pytest.raises(ConfigError) as refused:
        SCHEMA.build(
            {
                "name": Given("plain", "--name"),
                "eggs": Given(-1, "CAKE_EGGS"),
                "oven.mode": Given("steam", "cake.yaml:7"),
                "ovn.degrees": Given(1, "cake.yaml:8"),
            }
        )
    unknown, eggs, mode = str(refused.value).splitlines()
    assert unknown == "cake.yaml:8: ovn.degrees: unknown key; did you mean oven.degrees?"
    assert eggs.startswith("CAKE_EGGS: eggs is -1; allowed: ")
    assert mode.startswith("cake.yaml:7: oven.mode is 'steam'; allowed: ")
    assert "fan" in mode


def test_a_key_that_must_be_given_is_asked_for_by_flag_and_variable() -> None:
    with pytest.raises(ConfigError, match=r"^--name \(or CAKE_NAME\) is required: what it is called$"):
        SCHEMA.build({})


def test_a_section_is_no_value_and_a_bool_no_number() -> None:
    with pytest.raises(
        ConfigError, match=r"^--oven: oven is a section, not a value; its keys are oven.degrees, oven.mode$"
    ):
        SCHEMA.build(given(name="plain", oven=3))
    with pytest.raises(ConfigError, match=r"^--eggs: eggs is true; allowed: "):
        SCHEMA.build(given(name="plain", eggs=True))


def test_a_rule_between_keys_names_those_that_were_given() -> None:
    with pytest.raises(ConfigError) as refused:
        SCHEMA.build(given(name="plain", glazed=True, oven__degrees=280))
    text = str(refused.value)
    assert text.endswith("oven.degrees is 280, which burns what is glazed: set glazed=false")
    assert "--glazed" in text
    assert "--oven__degrees" in text
    assert "--name" not in text


def test_the_environment_gives_what_begins_with_the_prefix_and_unknown_variables_are_refused() -> None:
    environ = {
        "CAKE_NAME": "007",
        "CAKE_OVEN__DEGREES": "210",
        "CAKE_SHOP_ID": "x",
        "PATH": "/bin",
        "CAKE_EGS": "1",
    }
    found = SCHEMA.from_environment(environ, ignored=("CAKE_SHOP_",))
    assert found["name"] == Given("007", "CAKE_NAME")  # text, not a number
    assert found["oven.degrees"] == Given(210, "CAKE_OVEN__DEGREES")
    with pytest.raises(ConfigError, match=r"^CAKE_EGS: unknown variable; did you mean CAKE_EGGS\?$"):
        SCHEMA.build(found)


def test_of_two_values_for_one_key_the_later_counts_and_null_is_nothing_only_where_it_may_be() -> None:
    found = SCHEMA.from_text(
        [("--a", "eggs", "4"), ("--b", "eggs", "5"), ("--n", "note", "null"), ("--n", "name", "null")]
    )
    assert found["eggs"] == Given(5, "--b")
    assert found["note"].value is None
    assert found["name"].value == "null"
