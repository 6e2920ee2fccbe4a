"""The words that an episode of the Password Game draws from."""

from __future__ import annotations

WORDLE = (  # noqa: SIM905 - words read better than a list of quoted words
    "apple bacon beach birch brave bread brick cabin camel candy chair charm chess cider clock cloud coral crane "
    "crown daisy dance dream eagle earth fable fairy flame flute frost fruit ghost giant glass globe grape green "
    "haste heart honey horse hotel house ivory jelly juice knife lemon light maple medal melon metal money mouse "
    "music night noble ocean olive onion opera otter panda paper party peach pearl piano pilot plant plate queen "
    "quiet radio raven river robin royal salad scarf shark sheep shirt skate slate smile snake solar spice spoon "
    "squid stone storm sugar swing table tiger toast tower train tulip uncle urban vault video viola vocal wagon "
    "watch water whale wheat wheel world yacht yeast young zebra"
).split()

COUNTRIES = (  # noqa: SIM905 - words read better than a list of quoted words
    "albania algeria angola argentina armenia australia austria belgium bolivia brazil bulgaria cambodia canada chad "
    "chile china colombia croatia cuba cyprus denmark ecuador egypt estonia ethiopia fiji finland france gabon "
    "germany ghana greece guatemala guyana haiti honduras hungary iceland india indonesia iran iraq ireland israel "
    "italy jamaica japan jordan kenya kuwait laos latvia lebanon liberia libya malawi malaysia mali malta mexico "
    "monaco mongolia morocco namibia nepal niger nigeria norway oman pakistan panama paraguay peru poland portugal "
    "qatar romania russia rwanda senegal serbia singapore slovakia slovenia somalia spain sudan sweden switzerland "
    "syria tanzania thailand togo tunisia turkey uganda ukraine uruguay venezuela vietnam yemen zambia zimbabwe"
).split()
