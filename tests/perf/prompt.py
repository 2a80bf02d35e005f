"""The prompt whose first token is waited for."""

PROMPT = (
    "The lighthouse stood at the end of the long stone pier, and every evening its keeper climbed the narrow stairs to light the lamp. "
    "From the gallery he could see the fishing boats come home, one after another, and he knew each of them by the shape of its sails. "
    "In winter, when the wind blew from the north, the waves broke over the wall and the spray froze on the iron railing. "
    "Then he wrote in his book the hour, the force of the wind and the height of the water, as the keepers before him had done for "
    "two hundred years. One morning a stranger knocked at his door, cold and wet"
)
PROMPT_TOKENS = 128
